package webhook

import (
	"encoding/json"
	"strings"

	"tollgate/policy/alerts"
)

// slackBody returns a message as Slack's incoming webhooks take it, and Mattermost's, Rocket.Chat's
// and Discord's below /slack: what people read, in which &, < and > stand for themselves alone.
// Source: https://docs.slack.dev/messaging/formatting-message-text, "Escaping text".
func slackBody(message []byte) ([]byte, error) {
	t, err := alerts.ReadMessage(message)
	if err != nil {
		return nil, err
	}
	text := "*" + t.Headline + "*"
	for _, l := range t.Lines {
		text += "\n" + l.Name + ": " + l.Value
	}
	escaped := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	return json.Marshal(map[string]string{"text": escaped})
}
