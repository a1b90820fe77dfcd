#!/bin/sh
# First layer, on top of a Debian base: what the layers above remove, replace and change. $1 is the image's root.
set -eu
cd "$1"
mkdir -p opt/lower opt/opaque/sub opt/becomes-file opt/gone
echo lower >opt/lower/removed
echo lower >opt/lower/changed
echo lower >opt/lower/untouched
echo old >opt/opaque/old
echo old >opt/opaque/sub/old
echo old >opt/gone/a
echo old >opt/becomes-file/b
echo old >opt/becomes-directory
