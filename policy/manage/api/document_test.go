package api_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write openapi.json, if clients of the one that stands there can go on")

// The document that is served is the one that is committed, and a new one breaks no client.
func TestDocument(t *testing.T) {
	t.Parallel()
	const file = "openapi.json"
	w := newWorld(t)
	served := w.send(nobody, "GET", "/openapi.json", "").want(200, "")
	if kind := served.header.Get("Content-Type"); kind != "application/openapi+json" {
		t.Errorf("Content-Type %s", kind)
	}
	committed, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	if err == nil {
		for _, problem := range breaks(t, string(committed), served.body) {
			t.Errorf("clients of the committed document break: %s", problem)
		}
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(file, []byte(served.body), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(committed) != served.body {
		t.Errorf("%s is not what is served; run the test with -update", file)
	}
	if !strings.Contains(served.body, `"openapi": "3.1.0"`) || strings.Contains(served.body, "ErrorModel") {
		t.Error("not 3.1, or with the library's errors")
	}
}

// What would break a client is found.
func TestBreaksAreFound(t *testing.T) {
	t.Parallel()
	const before = `{"paths":{"/v1/a":{"get":{"parameters":[{"name":"q","in":"query"}],"responses":{"200":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/A"}}}}}},
		"post":{"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/B"}}}},"responses":{"201":{}}}}},
		"components":{"schemas":{"A":{"type":"object","properties":{"x":{"type":"string"}},"required":["x"]},"B":{"type":"object","properties":{"y":{"type":"string","enum":["m","n"]},"z":{"type":"integer","maximum":9}}}}}}`
	if found := breaks(t, before, before); len(found) > 0 {
		t.Errorf("the same breaks: %v", found)
	}
	for change, want := range map[[2]string]string{
		{`"/v1/a"`, `"/v1/b"`}:                                                       "/v1/a is gone",
		{`"post":`, `"put":`}:                                                        "post is gone",
		{`"name":"q"`, `"name":"r"`}:                                                 "query q is gone",
		{`"201"`, `"200"`}:                                                           "201 is gone",
		{`"x":{"type":"string"}`, `"x":{"type":"integer"}`}:                          "x/type",
		{`"x":{"type":"string"}`, `"w":{"type":"string"}`}:                           "x is gone",
		{`"enum":["m","n"]`, `"enum":["m"]`}:                                         "n is gone",
		{`"maximum":9`, `"maximum":8`}:                                               "maximum",
		{`"B":{"type":"object"`, `"B":{"type":"object","required":["y"]`}:            "y is required",
		{`"in":"query"}`, `"in":"query"},{"name":"s","in":"query","required":true}`}: "s is required",
	} {
		found := breaks(t, before, strings.Replace(before, change[0], change[1], 1))
		if !strings.Contains(fmt.Sprint(found), want) {
			t.Errorf("%s to %s: %v, want %s", change[0], change[1], found, want)
		}
	}
	more := strings.Replace(before, `"properties":{"y"`, `"properties":{"v":{"type":"string"},"y"`, 1)
	if found := breaks(t, before, more); len(found) > 0 {
		t.Errorf("a new field that nobody need send breaks: %v", found)
	}
}

// breaks lists what a client of an earlier document relies on and a later one has not, or not so.
// It is strict: fields, values and answers may be added, but none that must be sent, and nothing
// else may change.
func breaks(t *testing.T, earlier, later string) (found []string) {
	t.Helper()
	var before, after map[string]any
	if err := errors.Join(json.Unmarshal([]byte(earlier), &before), json.Unmarshal([]byte(later), &after)); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"paths", "components"} {
		compare("/"+part, before[part], after[part], &found)
	}
	return found
}

func compare(at string, before, after any, found *[]string) {
	note := func(text string) { *found = append(*found, text) }
	switch b := before.(type) {
	case map[string]any:
		a, ok := after.(map[string]any)
		if !ok {
			note(at + " is of another kind")
			return
		}
		for _, name := range slices.Sorted(maps.Keys(b)) {
			switch now, ok := a[name]; {
			case name == "description" || name == "summary" || name == "examples" || name == "title" || name == "required":
			case !ok:
				note(at + "/" + name + " is gone")
			default:
				compare(at+"/"+name, b[name], now, found)
			}
		}
		had := fmt.Sprint(b["required"])
		required, _ := a["required"].([]any)
		for _, name := range required {
			if !strings.Contains(had, fmt.Sprint(name)) {
				note(fmt.Sprintf("%s: %v is required", at, name))
			}
		}
	case []any:
		compareLists(at, b, after, found)
	default:
		if fmt.Sprint(before) != fmt.Sprint(after) {
			note(fmt.Sprintf("%s was %v and is %v", at, before, after))
		}
	}
}

// compareLists compares parameters by name, and other lists as sets.
func compareLists(at string, before []any, after any, found *[]string) {
	nameOf := func(v any) string {
		if m, ok := v.(map[string]any); ok && m["name"] != nil {
			return fmt.Sprint(m["in"], " ", m["name"])
		}
		return fmt.Sprint(v)
	}
	list, _ := after.([]any)
	now := map[string]any{}
	for _, v := range list {
		now[nameOf(v)] = v
	}
	for _, v := range before {
		if _, ok := now[nameOf(v)]; !ok {
			*found = append(*found, at+": "+nameOf(v)+" is gone")
			continue
		}
		compare(at+"/"+nameOf(v), v, now[nameOf(v)], found)
		delete(now, nameOf(v))
	}
	for name, v := range now {
		if m, ok := v.(map[string]any); ok && m["required"] == true {
			*found = append(*found, at+": "+name+" is required")
		}
	}
}
