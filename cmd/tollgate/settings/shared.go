package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/smallfile"
)

// embeddedStore is the value of --store that needs no server.
const embeddedStore = "memory"

// envPrefix stands before the name of a flag in its environment variable.
const envPrefix = "TOLLGATE"

// maxSmall is far above what a config file, a pepper or a token has, in bytes.
const maxSmall = 1 << 20

// shared are the settings that the server and the commands have in common: which policy,
// which store, and how keys are hashed.
type shared struct {
	policy     string // file or directory
	store      string // embeddedStore, a URL, which may hold a password, or empty for the REDIS_ variables
	socket     string // of the embedded store; default below a directory of this user
	pepperFile string
	pepperText string // TOLLGATE_PEPPER; no flag, because command lines are public

	olderPeppers string // files and words, joined with commas
}

// variable returns the environment variable of a flag.
func variable(flag string) string {
	return envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment takes in what no flag says: the pepper, and the store where nobody has
// named one.
func (s *shared) fromEnvironment(storeNamed bool) {
	if !storeNamed && os.Getenv("REDIS_URL") != "" {
		s.store = "" // the variables of Envoy's rate-limit service say where it is
	}
	s.pepperText = os.Getenv(variable("pepper"))
}

// checkPepper refuses two peppers.
func (s *shared) checkPepper() error {
	if s.pepperFile != "" && s.pepperText != "" {
		return fmt.Errorf("--pepper-file and %s_PEPPER: give one of the two", envPrefix)
	}
	return nil
}

// pepper returns the secret that keys are hashed with, nil if there is none.
func (s *shared) pepper() ([]byte, error) {
	if s.pepperFile == "" {
		return []byte(s.pepperText), nil
	}
	data, err := smallfile.Read(s.pepperFile, maxSmall)
	if err != nil {
		return nil, fmt.Errorf("--pepper-file: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return nil, fmt.Errorf("--pepper-file: %s is empty", s.pepperFile)
	}
	return []byte(text), nil
}

// Words of --older-peppers that are no files.
const (
	noPepper    = "none"
	plainSHA256 = "sha256"
)

// olderMethods reads the methods by which keys were hashed before.
func (s *shared) olderMethods() ([]keys.Method, error) {
	var methods []keys.Method
	for name := range strings.SplitSeq(s.olderPeppers, ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case noPepper:
			methods = append(methods, keys.Method{Algorithm: keys.AlgorithmHMACSHA256})
		case plainSHA256:
			methods = append(methods, keys.Method{Algorithm: keys.AlgorithmSHA256})
		default:
			data, err := smallfile.Read(name, maxSmall)
			if err != nil {
				return nil, fmt.Errorf("--older-peppers: %w", err)
			}
			pepper := bytes.TrimRight(data, "\r\n")
			if len(pepper) == 0 {
				return nil, fmt.Errorf("--older-peppers: %s is empty", name)
			}
			methods = append(methods, keys.Method{Algorithm: keys.AlgorithmHMACSHA256, Pepper: pepper})
		}
	}
	return methods, nil
}
