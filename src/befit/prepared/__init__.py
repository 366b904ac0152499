"""Models built ahead: a folder with everything in the form that loads fastest.

    DIR/befit-build.json   what this is: versions, the source file, size and SHA-256 of every other file
    DIR/metadata.json      the model file's metadata, chat template included, without its arrays
    DIR/metadata.bin       the arrays: the vocabulary above all
    DIR/program.json       the ops that the weights were packed for
    DIR/tensors.json       where each tensor lies in weights.bin, and in which form
    DIR/weights.bin        lookup tables and vectors as they are in the source, matrices packed for the native backend

`build` writes it, `open_build` reads it. Nothing in it is executed, and the program in it is not run: loading describes
the model from its metadata, as it does for a GGUF file, and compares. What can be computed is compared with what is
stored, so a folder that was damaged, or made by hand, is refused before a weight is read.
"""
