package main

import (
	"fmt"
	"os"
	"strings"

	"tollgate/policy/keys/smallfile"
)

// tokenVariable holds a member's token; there is no flag, because command lines
// are public.
const tokenVariable = envPrefix + "_TOKEN"

// memberToken returns the token, from a file or the environment, of the member in whose name to act, or "" for the
// operator. An empty one is a mistake: it would make the operator of a member.
func memberToken(file string) (string, error) {
	token, given := os.LookupEnv(tokenVariable)
	switch {
	case given && file != "":
		return "", fmt.Errorf("--token-file and %s: give one of the two", tokenVariable)
	case given && strings.TrimSpace(token) == "":
		return "", fmt.Errorf("%s is empty: unset it to act as the operator", tokenVariable)
	case given:
		return strings.TrimSpace(token), nil
	case file == "":
		return "", nil
	}
	data, err := smallfile.Read(file, maxSmall)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	if token = strings.TrimSpace(string(data)); token == "" {
		return "", fmt.Errorf("--token-file: %s is empty", file)
	}
	return token, nil
}
