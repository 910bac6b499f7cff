package server

import (
	"path/filepath"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/tollgatetest"
)

// What is wrong with the flags about alerts is said before anything starts, without the URL and the
// secret.
func TestAlertFlags(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	tollgatetest.WriteFile(t, good, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))
	tollgatetest.WriteFile(t, bad, []byte("SECRET"))
	for _, c := range []struct {
		o    options
		want string // "" for no error
	}{
		{options{usage: true}, ""},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: good}, ""},
		{options{usage: true, alertWebhook: "http://hooks.example.com/SECRET", alertSecretFile: good, alertAllow: "10.0.0.0/8"}, ""},
		{options{usage: true, alertSecretFile: good}, "for --alert-webhook"},
		{options{usage: true, alertAllow: "10.0.0.0/8"}, "for --alert-webhook"},
		{options{usage: true, alertAllow: "10.0.0.1/8"}, "--alert-allow: "},
		{options{alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: good}, "needs --usage"},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET"}, "give --alert-secret-file"},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: dir + "/none"}, "--alert-secret-file: "},
		{options{usage: true, alertWebhook: "https://hooks.example.com/SECRET", alertSecretFile: bad}, "want whsec_"},
		{options{usage: true, alertWebhook: "http://hooks.example.com/SECRET", alertSecretFile: good}, "--alert-webhook: want https"},
	} {
		r, err := newReceiver(&c.o)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%+v: %v", c.o, err)
		}
		if err == nil && (r != nil) != (c.o.alertWebhook != "") {
			t.Errorf("%+v: %v", c.o, r)
		}
	}
	a := (&service{}).newAlerting(nil) // with --usage=false
	if a != nil {
		t.Error("it watches what is not counted")
	}
	a.run(t.Context()) // ends at once
}
