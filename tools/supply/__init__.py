"""What is shipped, and what it stands on: what the packages hold, their licences, sizes, floors and hashes.

make supply        build, look inside, list licences, measure sizes and the import; each over its bound is an error
make smoke         install wheel and sdist into empty environments and use them
make lock          requirements.lock anew: every package of the development set with the hashes of all its files
"""
