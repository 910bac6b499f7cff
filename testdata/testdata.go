// Package testdata holds the four proof APIs: for each a policy file, a keys
// file and a script of requests with the exact answers they must get. Beside them,
// check holds requests that were recorded from a real Envoy, for measurements.
//
// The tests and `tollgate-demo` read them from here, so what the demo shows is
// what the tests prove. The go tool leaves folders of this name out of ./...;
// run the package's own tests with `go test tollgate/testdata`.
package testdata

import (
	"embed"
	"fmt"

	"tollgate/policy/keys/keyfile"
)

// files is a variable because go:embed knows no other form; nothing writes it.
//
//go:embed pixelbyte pixelmagic genapi pictify check
var files embed.FS

// APIs returns the names of the four APIs, in the order in which the demo
// shows them. Each is a folder with policy.yaml, keys.yaml, broken.yaml and
// script.txt.
func APIs() []string {
	return []string{"pixelbyte", "pixelmagic", "genapi", "pictify"}
}

// File returns the content of one file of an API, such as "policy.yaml". The
// error names the file that does not exist.
func File(api, name string) ([]byte, error) {
	data, err := files.ReadFile(api + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("no file %q for the API %q: %w", name, api, err)
	}
	return data, nil
}

// CheckRequest returns a CheckRequest as Envoy sent it, on the wire. name is
// "shipped" for the filter as the bootstraps have it, whose allowed_headers let few
// headers through, or "all-headers" for the same request without that setting. The
// test of cmd/tollgate-bench/bench compares both with what an Envoy sends now, and records
// them again with -record.
func CheckRequest(name string) ([]byte, error) {
	data, err := files.ReadFile("check/" + name + ".binpb")
	if err != nil {
		return nil, fmt.Errorf("no recorded request %q: %w", name, err)
	}
	return data, nil
}

// Keys returns the keys of one API with their secrets: those of keys.yaml, and
// those of broken.yaml, whose records the policy cannot use.
func Keys(api string) ([]keyfile.Entry, error) {
	var all []keyfile.Entry
	for _, name := range []string{"keys.yaml", "broken.yaml"} {
		data, err := File(api, name)
		if err != nil {
			return nil, err
		}
		entries, err := keyfile.ParseFile(api+"/"+name, data)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// Script parses the script of one API.
func Script(api string) ([]Block, error) {
	data, err := File(api, "script.txt")
	if err != nil {
		return nil, err
	}
	return ParseScript(data)
}
