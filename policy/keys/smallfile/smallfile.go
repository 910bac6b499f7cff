// Package smallfile reads files that must be small. A large one was put there by mistake, and must
// not exhaust the memory of a server that reads its files again while it runs.
package smallfile

import (
	"fmt"
	"io"
	"os"
)

// Read returns the content of a file of at most this many bytes. It may be a pipe.
func Read(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		return nil, tooLarge(path, most)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1)) // it may grow meanwhile
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, tooLarge(path, most)
	}
	return data, nil
}

func tooLarge(path string, most int64) error {
	return fmt.Errorf("%s: is larger than the %d bytes that are read", path, most)
}
