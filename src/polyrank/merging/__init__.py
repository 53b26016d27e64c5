"""PEFT adapter folders of any ranks -> one: check what goes in, run a method once, measure what it lost."""
