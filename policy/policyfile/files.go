package policyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"tollgate/policy/keys/smallfile"
)

// File is a file's name, used in errors, and its text.
type File struct {
	Name string
	Data []byte
}

// ReadFiles reads the YAML files at path: the file itself, or every *.yaml and *.yml of the
// directory, sorted by name. Sub-directories and dot files are left out, so that a Kubernetes
// ConfigMap volume works as it is mounted.
func ReadFiles(path string) ([]File, error) { return readFiles(path, maxFile) }

// maxFiles is how many bytes the files of a directory may have together, and a file of keys.
const maxFiles = 64 << 20

// ReadKeyFiles is ReadFiles for keys files, which are larger than policies.
func ReadKeyFiles(path string) ([]File, error) { return readFiles(path, maxFiles) }

func readFiles(path string, most int64) ([]File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		names, err = policyNames(path)
		if err != nil {
			return nil, err
		}
	}
	files := make([]File, 0, len(names))
	left := int64(maxFiles)
	for _, name := range names {
		data, err := readFile(name, most)
		if err != nil {
			return nil, err
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("%s: its files are larger than %d bytes together", path, maxFiles)
		}
		files = append(files, File{Name: name, Data: data})
	}
	return files, nil
}

// readFile reads a regular file: a pipe or a device could hold its reader up for good. Its size is
// judged before it is read.
func readFile(name string, most int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return smallfile.Read(name, most)
}

func policyNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no *.yaml file", dir)
	}
	sort.Strings(names)
	return names, nil
}
