package keyfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tollgate/policy/keys"
)

// AppendYAML adds f as an item of the list of a keys file.
func (f *Fields) AppendYAML(to []byte) []byte {
	mark := "- "
	field := func(name, value string) {
		if value != "" {
			to = append(to, mark+name+": "+value+"\n"...)
			mark = "  "
		}
	}
	list := func(items []string) string {
		if items == nil {
			return ""
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	var scopes, ips, limits, extras []string
	for _, s := range f.Scopes {
		scopes = append(scopes, yamlText(s))
	}
	for _, s := range f.IPs {
		ips = append(ips, yamlText(s))
	}
	for _, l := range f.Limits {
		limits = append(limits, fmt.Sprintf("{name: %s, requests: %d}", yamlText(l.Name), l.Requests))
	}
	for _, x := range f.Extras {
		extras = append(extras, fmt.Sprintf("{name: %s, requests: %d, until: %s}", yamlText(x.Name), x.Requests, yamlText(x.Until)))
	}
	field("id", yamlText(f.ID))
	field("api", yamlText(f.API))
	field("team", yamlText(f.Team))
	field("name", yamlText(f.Name))
	field("note", yamlText(f.Note))
	field("environment", yamlText(f.Environment))
	field("plan", yamlText(f.Plan))
	field("scopes", list(scopes))
	field("ips", list(ips))
	field("limits", list(limits))
	field("extras", list(extras))
	field("status", yamlText(f.Status))
	field("expires_at", yamlText(f.ExpiresAt))
	field("retires_at", yamlText(f.RetiresAt))
	field("limit_id", yamlText(f.LimitID))
	field("rotated_from", yamlText(f.RotatedFrom))
	field("rotated_to", yamlText(f.RotatedTo))
	field("created_by", yamlText(f.CreatedBy))
	field("created_at", yamlText(f.CreatedAt))
	field("updated_at", yamlText(f.UpdatedAt))
	field("anchor_day", yamlNumber(int64(f.AnchorDay)))
	field("version", yamlNumber(f.Version))
	field("secret", yamlText(f.Secret))
	field("hash", yamlText(f.Hash))
	return to
}

func yamlNumber(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// yamlText writes what cannot be mistaken for anything else without quotes, because that is how
// people write it.
func yamlText(s string) string {
	words := []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
	letter := func(s string) bool { return strings.Trim(s, keys.Base62[10:]) == "" }
	if s == "" || letter(s[:1]) && strings.Trim(s, keys.Base62+"_-") == "" && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	var quoted bytes.Buffer
	e := json.NewEncoder(&quoted)
	e.SetEscapeHTML(false)
	e.Encode(s) // never fails for a string
	return strings.TrimSuffix(quoted.String(), "\n")
}
