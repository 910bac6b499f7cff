// Package settings holds the settings that the server and the commands share: where policy and
// store are, and how keys are hashed. It also reads the config file and tokens.
package settings

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/smallfile"
)

// EmbeddedStore is the value of --store that needs no server.
const EmbeddedStore = "memory"

// EnvPrefix stands before the name of a flag in its environment variable.
const EnvPrefix = "TOLLGATE"

// maxSmall is far above what a config file, a pepper or a token has, in bytes.
const maxSmall = 1 << 20

// Shared are the settings that the server and the commands have in common: which policy,
// which store, and how keys are hashed.
type Shared struct {
	Policy     string // file or directory
	Store      string // EmbeddedStore, a URL, which may hold a password, or empty for the REDIS_ variables
	Socket     string // of the embedded store; default below a directory of this user
	PepperFile string
	PepperText string // TOLLGATE_PEPPER; no flag, because command lines are public

	OlderPeppers string // files and words, joined with commas

	ClickHouse             string // URL without a password; none if empty
	ClickHousePasswordFile string
}

// Variable returns the environment variable of a flag.
func Variable(flag string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// FromEnvironment takes in what no flag says: the pepper, and the store where nobody has
// named one.
func (s *Shared) FromEnvironment(storeNamed bool) {
	if !storeNamed && os.Getenv("REDIS_URL") != "" {
		s.Store = "" // the variables of Envoy's rate-limit service say where it is
	}
	s.PepperText = os.Getenv(Variable("pepper"))
}

// CheckPepper refuses two peppers.
func (s *Shared) CheckPepper() error {
	if s.PepperFile != "" && s.PepperText != "" {
		return fmt.Errorf("--pepper-file and %s_PEPPER: give one of the two", EnvPrefix)
	}
	return nil
}

// Pepper returns the secret that keys are hashed with, nil if there is none.
func (s *Shared) Pepper() ([]byte, error) {
	if s.PepperFile == "" {
		return []byte(s.PepperText), nil
	}
	data, err := smallfile.Read(s.PepperFile, maxSmall)
	if err != nil {
		return nil, fmt.Errorf("--pepper-file: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return nil, fmt.Errorf("--pepper-file: %s is empty", s.PepperFile)
	}
	return []byte(text), nil
}

// Words of --older-peppers that are no files.
const (
	noPepper    = "none"
	plainSHA256 = "sha256"
)

// OlderMethods reads the methods by which keys were hashed before.
func (s *Shared) OlderMethods() ([]keys.Method, error) {
	var methods []keys.Method
	for name := range strings.SplitSeq(s.OlderPeppers, ",") {
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
