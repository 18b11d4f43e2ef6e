//! What a derived value was made of: said by the code that makes it, for `why`.

/// A derived value, or one of several that it is put together from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// `mem`; empty where there is only this one.
    pub name: String,
    /// `6912`.
    pub value: String,
    /// What it was made of, in order.
    pub of: Vec<Input>,
    /// What was done with that: `in steps of 256`; may be empty.
    pub how: String,
}

/// A value that a derivation has used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// The word before it, as `less`; may be empty.
    pub word: &'static str,
    /// The name of a fact, a setting or another derived value, or what else it is called.
    pub name: String,
    /// The value that was used.
    pub value: String,
    /// Where it stands, if it is neither a fact nor a setting.
    pub source: Option<String>,
}

impl Input {
    /// A fact, a setting or another derived value.
    pub fn named(name: impl Into<String>, value: impl ToString) -> Input {
        Input { name: name.into(), value: value.to_string(), ..Input::default() }
    }
}

impl Part {
    /// A part that is the value of this fact or setting.
    pub fn same(name: impl Into<String>, value: impl ToString, of: impl Into<String>) -> Part {
        Part::new(name, value.to_string()).of(Input::named(of, value))
    }

    /// A part of which the inputs are still to be said.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Part {
        Part { name: name.into(), value: value.to_string(), ..Part::default() }
    }

    /// Adds an input.
    #[must_use]
    pub fn of(mut self, input: Input) -> Part {
        self.of.push(input);
        self
    }

    /// Says what was done with the inputs.
    #[must_use]
    pub fn how(mut self, how: impl Into<String>) -> Part {
        self.how = how.into();
        self
    }

    /// Name and value.
    pub fn pair(&self) -> (String, String) {
        (self.name.clone(), self.value.clone())
    }
}
