// Package policyfile reads policies from files: strict YAML, compiled into what package policy
// decides by. Every mistake is named with its file, line and column, and the JSON Schema of the
// files is generated from the types that they are decoded into.
package policyfile

import (
	"errors"
	"fmt"

	"tollgate/policy"
)

// Fault is one thing wrong in a policy file.
type Fault struct {
	File         string
	Line, Column int // 1-based
	Message      string
}

// Error returns "file:line:column: message".
func (f *Fault) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Load reads and compiles the policy file or directory at path.
func Load(path string) (*policy.Set, error) {
	files, err := ReadFiles(path)
	if err != nil {
		return nil, err
	}
	return Compile(files...)
}

// Compile compiles policy files, one API each, into a Set. Every fault of every file is reported,
// each as a *Fault, joined with errors.Join.
func Compile(files ...File) (*policy.Set, error) {
	return compileAll(files, func(*document, *source) {})
}

// compileAll is Compile, and hands each file that could be read to read.
func compileAll(files []File, read func(*document, *source)) (*policy.Set, error) {
	var specs []policy.Spec
	var faults []error
	taken := &taken{files: map[string]string{}, hosts: map[string]string{}}
	for _, f := range files {
		src := &source{name: f.Name, hosts: map[string]string{}}
		doc, fault := src.decode(f.Data)
		if fault != nil {
			faults = append(faults, fault)
			continue
		}
		read(doc, src)
		spec := compile(doc, src)
		if len(src.faults) == 0 {
			taken.add(spec, src)
		}
		faults = append(faults, src.faults...)
		specs = append(specs, *spec)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if len(specs) == 0 {
		return nil, errors.New("policy: no policy file given")
	}
	return policy.New(specs...), nil
}

// taken are the names that are unique over all files.
type taken struct {
	files map[string]string // of APIs, by their names
	hosts map[string]string // the API of each
}

// add takes the names of an API, unless others have some of them: that is a fault of src.
func (t *taken) add(spec *policy.Spec, src *source) {
	if other, ok := t.files[spec.Name]; ok {
		src.fault("api", "duplicate api %q, which %s defines", spec.Name, other)
	}
	for _, host := range spec.Hosts {
		if other, ok := t.hosts[host]; ok {
			src.fault(src.hosts[host], "host %q belongs to api %q already", host, other)
		}
	}
	if len(src.faults) > 0 {
		return
	}
	t.files[spec.Name] = src.name
	for _, host := range spec.Hosts {
		t.hosts[host] = spec.Name
	}
}
