#!/bin/sh
# Third layer: changes to the second. $1 is the image's root.
set -eu
cd "$1"
echo changed >opt/lower/changed
mkdir opt/gone && echo again >opt/gone/b
cd srv/hard
rm link-b many/f7
chmod 600 many/f8
mv 'with space' moved
printf more >>text
