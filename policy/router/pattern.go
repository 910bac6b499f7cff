package router

import (
	"fmt"
	"regexp"
	"strings"
)

// patternFault refuses what ServeMux takes for literal text and other routers take for a wildcard,
// a list or an expression: such a route would match hardly any request, and so deny what it was
// written for. To match the character itself, escape it (%3A; RFC 3986 section 2.1).
func patternFault(method, path string) error {
	switch {
	case method == "*", method == "ANY", method == "ALL":
		return fmt.Errorf("method %q: leave the method out, and the route is for every method", method)
	case strings.ContainsAny(method, "|,"):
		return fmt.Errorf("method %q is a list: want a route for each method", method)
	}
	all := strings.Split(path[1:], "/")
	for i, segment := range all {
		if fault := segmentFault(segment, i == len(all)-1); fault != "" {
			return fmt.Errorf("segment %q is literal text here: %s", segment, fault)
		}
	}
	return nil
}

// wildcardName is what could be meant as the name of a wildcard.
func wildcardName() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9._:-]{0,62}$`) }

func segmentFault(segment string, last bool) string {
	if strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
		return "" // ServeMux judges it
	}
	name := strings.Trim(segment, ":<>")
	if !wildcardName().MatchString(strings.ToLower(name)) {
		name = "name"
	}
	switch {
	case segment == "*" && last, segment == "**" && last:
		return "want {rest...}, or nothing behind the slash, for all paths below it, or {name} for one segment"
	case segment == "*", segment == "**":
		return "want {name} for any one segment"
	case len(segment) > 1 && segment[0] == ':', strings.HasPrefix(segment, "<"):
		return "want {" + name + "} for any one segment"
	case strings.ContainsAny(segment, "?#"):
		return "patterns match no query"
	case strings.Contains(segment, "*"):
		return "a wildcard is a whole segment, such as {name}, and a * itself is %2A"
	}
	if i := strings.IndexAny(segment, "^|[]\\`\"<>{}"); i >= 0 {
		return fmt.Sprintf("patterns are no regular expressions, and a %q itself is %%%02X", segment[i:i+1], segment[i])
	}
	return ""
}
