package extauthz

import "strings"

// CleanValue makes any text safe as a header value: a CR or LF would split the
// response (RFC 9110 section 5.5), and invalid UTF-8 would fail the whole reply.
func CleanValue(value string) string {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return strings.Map(printable, strings.ToValidUTF8(value, "?"))
		}
	}
	return value
}

func printable(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f {
		return ' '
	}
	return r
}
