package strictjson

import "testing"

func TestNames(t *testing.T) {
	for text, bad := range map[string]string{
		`{}`: "", `{"a":1,"b_c":"x","d":[{"a":1},{"a":2}]}`: "", `{"a":"{\"a\":1,\"a\":2}","b":":"}`: "",
		`{"a":1,"a":2}`: "a", `{"x":{"b":1, "b" : 2}}`: "b", `{"A":1}`: "A", `{"\u0061":1}`: `\u0061`, `{"a":1,"\"":2}`: `\"`,
	} {
		if got, ok := Names([]byte(text)); ok != (bad == "") || got != bad {
			t.Errorf("%s: %q, %t, want %q", text, got, ok, bad)
		}
	}
}
