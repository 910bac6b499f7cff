// Package strictjson refuses JSON objects whose fields could be read in two ways.
package strictjson

import (
	"bytes"
	"slices"
	"strings"
)

// Names finds what encoding/json lets pass: a field named twice, of which the last would win, and a
// name in other letters than ours ("STATUS", "\u0073tatus"). data is known to be valid JSON; a
// json.Decoder's tokens would say the same at several times the price of the decoding itself.
func Names(data []byte) (bad string, ok bool) {
	var names []string // of the objects that are open, outermost first
	var opened []int   // where in names each of them starts
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			opened = append(opened, len(names))
		case '}':
			names = names[:opened[len(opened)-1]]
			opened = opened[:len(opened)-1]
		case '"':
			start := i + 1
			for i = start; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if !bytes.HasPrefix(bytes.TrimLeft(data[i+1:], " \t\r\n"), []byte(":")) {
				continue
			}
			name := string(data[start:i])
			if !IsName(name) || slices.Contains(names[opened[len(opened)-1]:], name) {
				return name, false
			}
			names = append(names, name)
		}
	}
	return "", true
}

// IsName reports whether a text could be the name of one of our fields: a-z and _.
func IsName(s string) bool { return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == "" }
