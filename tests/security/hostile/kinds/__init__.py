"""The kinds of hostile inputs, a module each, with a function `inputs`. `KINDS` in `table` lists them."""
