"""Where the figures of README and docs come from. Each is printed beside a bound measured in the same run."""
