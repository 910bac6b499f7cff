package settings

import (
	"fmt"
	"os"
	"strings"

	"tollgate/policy/keys/smallfile"
)

// TokenVariable holds a member's token; there is no flag, because command lines
// are public.
const TokenVariable = EnvPrefix + "_TOKEN"

// Token returns the token, from a file or the environment, of the member in whose name to act, or
// "" for the operator. An empty one is a mistake: it would make the operator of a member.
func Token(file string) (string, error) {
	token, given := os.LookupEnv(TokenVariable)
	switch {
	case given && file != "":
		return "", fmt.Errorf("--token-file and %s: give one of the two", TokenVariable)
	case given && strings.TrimSpace(token) == "":
		return "", fmt.Errorf("%s is empty: unset it to act as the operator", TokenVariable)
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
