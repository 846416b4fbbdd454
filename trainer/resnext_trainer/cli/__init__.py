"""The commands of `resnext-train`. Parsers are light; a command imports heavy libraries when it runs."""
