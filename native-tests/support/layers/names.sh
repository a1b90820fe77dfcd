#!/bin/sh
# A layer with names that are no UTF-8. eStargz cannot carry them (its TOC is JSON), so it is used as a plain layer.
# $1 is an empty directory.
set -eu
mkdir -p "$1/srv/names"
cd "$1/srv/names"
latin=$(printf 'latin-\351')
echo latin >"$latin"
ln "$latin" "$(printf 'hard-\347')"
ln -s "$latin" "$(printf 'link-\350')"
mkdir "$(printf 'directory-\366')" && echo x >"$(printf 'directory-\366')/file"
: >"$(printf '\377\376')"
: >"$(printf 'n%.0s' $(seq 1 252))$(printf '\303\251\377')"
