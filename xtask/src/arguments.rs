//! The few options of the tasks, taken one by one; what is left over is a mistake and is said.

/// What was typed after `cargo xtask`.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    /// The arguments of this process.
    pub(crate) fn from_environment() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// Takes the first argument that is no option.
    pub(crate) fn word(&mut self) -> Option<String> {
        let at = self.0.iter().position(|argument| !argument.starts_with('-'))?;
        Some(self.0.remove(at))
    }

    /// Takes all arguments that are no options. Call after the options with values were taken.
    pub(crate) fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.word()).collect()
    }

    /// Takes the switch `name`; whether it was there.
    pub(crate) fn switch(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|argument| argument != name);
        self.0.len() != before
    }

    /// Takes the option `name` with its value, written `--name VALUE` or `--name=VALUE`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let joined = format!("{name}=");
        let Some(at) = self.0.iter().position(|argument| argument == name || argument.starts_with(&joined))
        else {
            return Ok(None);
        };
        let argument = self.0.remove(at);
        if let Some(value) = argument.strip_prefix(&joined) {
            return Ok(Some(value.to_owned()));
        }
        if at < self.0.len() { Ok(Some(self.0.remove(at))) } else { Err(format!("{name} needs a value")) }
    }

    /// Fails when something is left that no task asked for.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(extra) => Err(format!("do not know what to do with {extra}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Arguments {
        Arguments(line.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn options_and_words_are_taken_in_any_order() {
        let mut arguments = typed("test --require-all unit --seeds 5 sim --name=x");
        assert_eq!(arguments.word().as_deref(), Some("test"));
        assert!(arguments.switch("--require-all"));
        assert_eq!(arguments.value("--seeds"), Ok(Some("5".to_owned())));
        assert_eq!(arguments.value("--name"), Ok(Some("x".to_owned())));
        assert_eq!(arguments.words(), ["unit", "sim"]);
        assert!(arguments.finish().is_ok());
    }

    #[test]
    fn what_nobody_asked_for_and_missing_values_are_mistakes() {
        assert!(typed("--wrong").finish().is_err());
        assert!(typed("--dir").value("--dir").is_err());
    }
}
