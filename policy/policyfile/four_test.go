package policyfile

import (
	"path/filepath"
	"testing"
)

// The four published APIs load, each alone and all together.
func TestFourAPIsLoad(t *testing.T) {
	var files []File
	for _, api := range []string{"pixelbyte", "pixelmagic", "genapi", "pictify"} {
		read, err := ReadFiles(filepath.Join("..", "..", "testdata", api, "policy.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, read...)
		if _, err := Compile(read...); err != nil {
			t.Errorf("%s: %v", api, err)
		}
	}
	set, err := Compile(files...)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(set.APIs()); got != 4 {
		t.Errorf("%d APIs, want 4", got)
	}
}
