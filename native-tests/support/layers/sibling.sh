#!/bin/sh
# A small layer for images that share their base. $1 is an empty directory.
set -eu
mkdir -p "$1/srv/sibling"
cd "$1/srv/sibling"
echo first >first
echo second >second
head -c 3000000 /dev/urandom >random
