package keystest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/goccy/go-yaml"
)

// Shown returns what becomes of a value wherever somebody prints, logs or encodes it, by the way.
func Shown(v any) map[string]string {
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		shown[verb] = fmt.Sprintf(verb, v)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("a", "v", v)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("a", "v", v)
	slog.New(slog.NewJSONHandler(&log, nil)).Info(fmt.Sprint(v))
	shown["slog"] = log.String()
	j, _ := json.Marshal(v) // what cannot be encoded shows nothing
	y, _ := yaml.Marshal(v)
	shown["encoded"] = string(j) + string(y)
	return shown
}
