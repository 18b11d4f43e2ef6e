//! systemd's parser of `EnvironmentFile=`: the states of src/basic/env-file.c. The
//! nodes have systemd itself; this finds the same faults without one.

/// Names and values, in order.
pub fn read(text: &str) -> Vec<(String, String)> {
    #[derive(PartialEq)]
    enum State {
        Bare,
        Escape,
        Single,
        Double,
        DoubleEscape,
    }
    let mut found = Vec::new();
    let mut rest = text.chars();
    loop {
        let key: String = rest.by_ref().take_while(|c| *c != '=' && *c != '\n').collect();
        if key.is_empty() && rest.as_str().is_empty() {
            return found;
        }
        if key.is_empty() || key.starts_with(['#', ';']) {
            continue;
        }
        let (mut value, mut state) = (String::new(), State::Bare);
        // Blanks at the end of a bare value are removed.
        let mut kept = 0;
        for c in rest.by_ref() {
            match (&state, c) {
                (State::Bare, '\n') => break,
                (State::Bare, '\'') if value.is_empty() => state = State::Single,
                (State::Bare, '"') if value.is_empty() => state = State::Double,
                (State::Bare, '\\') => state = State::Escape,
                (State::Bare, ' ' | '\t') if value.is_empty() => {}
                (State::Bare, c) => {
                    value.push(c);
                    if !" \t".contains(c) {
                        kept = value.len();
                    }
                    continue;
                }
                (State::Single, '\'') | (State::Double, '"') => state = State::Bare,
                (State::Double, '\\') => state = State::DoubleEscape,
                (State::DoubleEscape, c) => {
                    if !"\"\\`$".contains(c) && c != '\n' {
                        value.push('\\');
                    }
                    if c != '\n' {
                        value.push(c);
                    }
                    state = State::Double;
                }
                (State::Escape, c) => {
                    if c != '\n' {
                        value.push(c);
                    }
                    state = State::Bare;
                }
                (State::Single | State::Double, c) => value.push(c),
            }
            kept = value.len();
        }
        value.truncate(kept);
        found.push((key.trim().to_owned(), value));
    }
}
