package load

import (
	"bytes"
	"fmt"
	"os"
)

// template is a request with a hole for the secret. The parts before and after it
// are shared by all calls.
type template struct{ before, after []byte }

// newTemplate reads the request of a job. The placeholder must be in it exactly
// once: a second copy would be another credential.
func newTemplate(j *Job) (*template, error) {
	data, err := os.ReadFile(j.Template)
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(data, []byte(j.Placeholder)); n != 1 || j.Placeholder == "" {
		return nil, fmt.Errorf("%s holds the placeholder %d times, want once", j.Template, n)
	}
	before, after, _ := bytes.Cut(data, []byte(j.Placeholder))
	return &template{before, after}, nil
}

// secrets reads the secrets of a job. Each must be as long as the placeholder: the
// lengths inside the request stay as they are.
func secrets(j *Job) ([][]byte, error) {
	data, err := os.ReadFile(j.Secrets)
	if err != nil {
		return nil, err
	}
	list := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	if j.Keys > len(list) {
		return nil, fmt.Errorf("%s has %d secrets, want %d", j.Secrets, len(list), j.Keys)
	}
	if j.Keys > 0 {
		list = list[:j.Keys]
	}
	for i, s := range list {
		if len(s) != len(j.Placeholder) {
			return nil, fmt.Errorf("%s:%d: %d bytes, want %d", j.Secrets, i+1, len(s), len(j.Placeholder))
		}
	}
	return list, nil
}
