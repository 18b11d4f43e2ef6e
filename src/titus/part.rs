//! The derivation of a value, recorded by the code that computes it, for `why`.

/// A derived value, or one part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The part's name, e.g. `mem`; empty if there is only one part.
    pub name: String,
    /// The value, e.g. `6912`.
    pub value: String,
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// The operation, e.g. `in steps of 256`; may be empty.
    pub operation: String,
}

/// A value that a derivation used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// The word before it, e.g. `less`; may be empty.
    pub word: &'static str,
    /// The name of a fact, a setting or another derived value, or a description.
    pub name: String,
    /// The value that was used.
    pub value: String,
    /// The source, if the input is neither a fact nor a setting.
    pub source: Option<String>,
}

impl Input {
    /// An input that is a fact, a setting or another derived value.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Input {
        Input { name: name.into(), value: value.to_string(), ..Input::default() }
    }
}

impl Part {
    /// A part whose value is that of a fact or setting.
    pub fn direct(name: impl Into<String>, value: impl ToString, input: impl Into<String>) -> Part {
        Part::new(name, value.to_string()).add_input(Input::new(input, value))
    }

    /// A part that has no inputs yet.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Part {
        Part { name: name.into(), value: value.to_string(), ..Part::default() }
    }

    /// Adds an input.
    #[must_use]
    pub fn add_input(mut self, input: Input) -> Part {
        self.inputs.push(input);
        self
    }

    /// Describes the operation on the inputs.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<String>) -> Part {
        self.operation = operation.into();
        self
    }

    /// Name and value.
    pub fn pair(&self) -> (String, String) {
        (self.name.clone(), self.value.clone())
    }
}
