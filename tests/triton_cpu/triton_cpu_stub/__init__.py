"""A Triton backend named `cpu` that compiles nothing.

Under TRITON_INTERPRET=1 numpy runs the kernels, but Triton and vLLM still ask whether a
backend exists. This one only answers yes, so that tests can run on a CPU what GPUs run.
A process finds it when the folder above is on its PYTHONPATH: the .dist-info beside this
package is its registration, nothing needs installing.
"""
