package server

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/alerts/mail"
	"tollgate/policy/alerts/outbox"
)

// What is wrong with the flags about alerts is said before anything starts, without the URL and the
// secret.
func TestAlertFlags(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	tollgatetest.WriteFile(t, good, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))
	tollgatetest.WriteFile(t, bad, []byte("SECRET"))
	slack := filepath.Join(dir, "slack")
	tollgatetest.WriteFile(t, slack, []byte("https://hooks.slack.example.com/SECRET\n"))
	post := mail.Config{Server: "smtps://mail.example.com", From: "a@example.com", To: "b@example.com"}
	user := post
	user.User = "u"
	for _, c := range []struct {
		o    options
		want string // "" for no error
	}{
		{options{usage: true}, ""},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: good}, ""},
		{options{usage: true, alertWebhook: "http://hooks.example.com/SECRET", alertSecretFile: good, alertAllow: "10.0.0.0/8"}, ""},
		{options{usage: true, alertSlackFile: slack}, ""},
		{options{usage: true, alertMail: post}, ""},
		{options{usage: true, alertMail: user, alertMailSecret: bad}, ""},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: good, alertSlackFile: slack, alertMail: post}, ""},
		{options{usage: true, alertSlackFile: dir + "/none"}, "--alert-slack-url-file: "},
		{options{usage: true, alertSlackFile: bad}, "want https"},
		{options{alertSlackFile: slack}, "needs --usage"},
		{options{usage: true, alertMail: mail.Config{From: "a@example.com"}}, "for --alert-mail-server"},
		{options{usage: true, alertMailSecret: bad}, "for --alert-mail-server"},
		{options{usage: true, alertMail: user}, "a user and a password go together"},
		{options{usage: true, alertMail: user, alertMailSecret: dir + "/none"}, "--alert-mail-password-file: "},
		{options{usage: true, alertMail: mail.Config{Server: post.Server, From: post.From}}, "to: "},
		{options{usage: true, alertSecretFile: good}, "for --alert-webhook"},
		{options{usage: true, alertAllow: "10.0.0.0/8"}, "for --alert-webhook"},
		{options{usage: true, alertAllow: "10.0.0.1/8"}, "--alert-allow: "},
		{options{alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: good}, "needs --usage"},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET"}, "give --alert-secret-file"},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: dir + "/none"}, "--alert-secret-file: "},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: bad}, "want whsec_"},
		{options{usage: true, alertWebhook: "http://hooks.example.com/SECRET", alertSecretFile: good}, "--alert-webhook: want https"},
	} {
		w, err := newWaysOut(&c.o)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%+v: %v", c.o, err)
		}
		for name, wanted := range map[string]bool{outbox.Webhook: c.o.alertWebhook != "", outbox.Slack: c.o.alertSlackFile != "", outbox.Mail: c.o.alertMail.Server != ""} {
			if err == nil && (w.posts[name] != nil) != wanted {
				t.Errorf("%+v: %s is %v", c.o, name, !wanted)
			}
		}
		if strings.Contains(fmt.Sprint(w.hosts), "SECRET") {
			t.Errorf("%v", w.hosts)
		}
	}
	a := (&service{}).newAlerting(waysOut{}, 1) // with --usage=false
	if a != nil {
		t.Error("it watches what is not counted")
	}
	a.run(t.Context()) // ends at once
}
