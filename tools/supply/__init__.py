"""The supply chain: package contents; licences, sizes, floors and hashes of dependencies.

make supply        build, inspect, list licences, measure sizes and import, within bounds
make smoke         install wheel and sdist into empty environments and use them
make lock          regenerate requirements.lock, the development set with all hashes
"""
