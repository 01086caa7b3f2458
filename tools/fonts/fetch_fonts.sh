#!/bin/sh
# Download the font packages listed in characters_fonts.toml and unpack each into DIR/<package>.
# Nothing is installed and no root is needed, but it takes a Debian system (apt-get, dpkg).
# Usage: tools/fonts/fetch_fonts.sh DIR
set -eu

dir=${1:?usage: fetch_fonts.sh DIR}
list=$(cd "$(dirname "$0")" && pwd)/characters_fonts.toml
mkdir -p "$dir/debs"
cd "$dir"

packages=$(sed -n '/^\[packages\]/,$ s/^\(fonts-[a-z0-9.+-]*\) = .*/\1/p' "$list")
cd debs
for package in $packages; do
    # An earlier run may have been cut off: fetch only what is missing.
    set -- "${package}"_*.deb
    [ -e "$1" ] || apt-get download -qq "$package" || echo "no package $package" >&2
done
cd ..
for deb in debs/*.deb; do
    package=$(basename "$deb")
    dpkg -x "$deb" "${package%%_*}"
done
echo "$(ls -d fonts-* | wc -l) packages in $(pwd)"
