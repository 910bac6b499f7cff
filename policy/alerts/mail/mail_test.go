package mail_test

import (
	"context"
	"io"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"tollgate/policy/alerts/guard"
	"tollgate/policy/alerts/mail"
)

const message = `{"type":"key.expiring","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs","team":"Größe & <b>","key":"key_0001","plan":"free","expires":"2026-12-01T18:00:00Z"}}`

func mailer(t *testing.T, s *server, change ...func(c *mail.Config)) *mail.Mailer {
	t.Helper()
	c := mail.Config{Server: s.url(), From: "tollgate@example.com", To: "ops@example.com, sam@example.org", User: "user", Password: "SECRET", Roots: s.roots}
	for _, f := range change {
		f(&c)
	}
	allowed, err := guard.ParseAllowed("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.New(c, guard.New(allowed))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What arrives is what another implementation reads, over TLS from the start or from STARTTLS on,
// and nothing that is secret before that.
func TestPost(t *testing.T) {
	at := time.Date(2026, 11, 30, 18, 0, 5, 0, time.UTC)
	for _, implicit := range []bool{true, false} {
		s := startServer(t, func(s *server) { s.implicit = implicit })
		if err := mailer(t, s).Post(t.Context(), "msg_1", at, []byte(message)); err != nil {
			t.Fatal(err)
		}
		mails, commands := s.taken()
		if len(mails) != 1 {
			t.Fatalf("%q", mails)
		}
		envelope, text, _ := strings.Cut(mails[0], "From: ")
		if envelope != "MAIL FROM:<tollgate@example.com>\nRCPT TO:<ops@example.com>\nRCPT TO:<sam@example.org>\n" {
			t.Errorf("%q", envelope)
		}
		got, err := netmail.ReadMessage(strings.NewReader("From: " + text))
		if err != nil {
			t.Fatal(err)
		}
		date, err := got.Header.Date()
		if err != nil || !date.Equal(at) || got.Header.Get("Message-Id") != "<msg_1@example.com>" || got.Header.Get("To") != "ops@example.com, sam@example.org" {
			t.Errorf("%v, %v", got.Header, err)
		}
		if subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject")); err != nil || subject != "Tollgate: a key will expire (jobs, key_0001)" {
			t.Errorf("%q, %v", subject, err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
		want := "a key will expire\r\n\r\napi: jobs\r\nteam: Größe & <b>\r\nkey: key_0001\r\nplan: free\r\nexpires: 2026-12-01T18:00:00Z\r\n\r\nmsg_1\r\n"
		if err != nil || string(body) != want {
			t.Errorf("%q, %v", body, err)
		}
		for line := range strings.SplitSeq(commands, "\n") {
			if !strings.HasPrefix(line, "EHLO ") && !strings.HasPrefix(line, "STARTTLS ") && !strings.HasSuffix(line, " true") {
				t.Errorf("not over TLS: %s", line)
			}
		}
		if !strings.Contains(commands, "AUTH PLAIN "+plainAuth("user", "SECRET")+" true") {
			t.Errorf("no AUTH: %s", commands)
		}
	}
}

// Without a user there is no AUTH.
func TestWithoutUser(t *testing.T) {
	s := startServer(t)
	m := mailer(t, s, func(c *mail.Config) { c.User, c.Password = "", "" })
	if err := m.Post(t.Context(), "msg_1", time.Now(), []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, commands := s.taken(); strings.Contains(commands, "AUTH") {
		t.Error(commands)
	}
}

// Each of these is a failure that may be tried again, and says nothing of what was answered, nor
// the password.
func TestPostFails(t *testing.T) {
	said := func(command, answer string) func(*server) { return func(s *server) { s.answers[command] = answer } }
	for name, c := range map[string]struct {
		server func(*server)
		mail   func(*mail.Config)
		want   string
	}{
		"offers no TLS":              {server: func(s *server) { s.noTLS = true }, want: "no STARTTLS"},
		"refuses TLS":                {server: said("STARTTLS", "454 ANSWERED"), want: "answered 454"},
		"refuses AUTH":               {server: said("AUTH", "535 ANSWERED"), want: "answered 535"},
		"refuses the sender":         {server: said("MAIL", "550 ANSWERED"), want: "answered 550"},
		"refuses a recipient":        {server: said("RCPT", "550-ANSWERED\n550 ANSWERED"), want: "answered 550"},
		"refuses the text":           {server: said("DATA", "452 ANSWERED"), want: "answered 452"},
		"is no SMTP":                 {server: func(s *server) { s.answers["EHLO"], s.answers["HELO"] = "ANSWERED", "ANSWERED" }, want: "not SMTP"},
		"says too much":              {server: said("MAIL", "250-"+strings.Repeat("ANSWERED", 50_000)+"\n250 ok"), want: "says too much"},
		"has another's certificate":  {mail: func(c *mail.Config) { c.Roots = startServer(t).roots }, want: "certificate"},
		"speaks TLS where we do not": {server: func(s *server) { s.implicit = true }, mail: func(c *mail.Config) { c.Server = strings.Replace(c.Server, "smtps", "smtp", 1) }, want: ""},
	} {
		s := startServer(t, func(s *server) {
			if c.server != nil {
				c.server(s)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		if c.want == "" { // both wait for the other to begin
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		m := mailer(t, s, func(to *mail.Config) {
			if c.mail != nil {
				c.mail(to)
			}
		})
		err := m.Post(ctx, "msg_1", time.Now(), []byte(message))
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "ANSWERED") {
			t.Errorf("one that %s: %v, want %s", name, err, c.want)
		}
		if mails, _ := s.taken(); len(mails) != 0 {
			t.Errorf("one that %s has %q", name, mails)
		}
	}
}

// A server that hangs keeps nobody for long.
func TestHangs(t *testing.T) {
	s := startServer(t, func(s *server) { s.hang = true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := mailer(t, s).Post(ctx, "msg_1", time.Now(), []byte(message)); err == nil || !strings.Contains(err.Error(), "no answer within") {
		t.Errorf("%v", err)
	}
	_ = s.listener.Close()
	if err := mailer(t, s).Post(t.Context(), "msg_1", time.Now(), []byte(message)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("one that is away: %v", err)
	}
}

// The address is judged when the connection is made.
func TestDialIsJudged(t *testing.T) {
	s := startServer(t)
	m, err := mail.New(mail.Config{Server: s.url(), From: "a@example.com", To: "b@example.com"}, guard.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Post(t.Context(), "msg_1", time.Now(), []byte(message)); err == nil || !strings.Contains(err.Error(), "no address of the public internet") {
		t.Errorf("%v", err)
	}
	if _, commands := s.taken(); commands != "" {
		t.Errorf("it was asked: %s", commands)
	}
	if err := mailer(t, s).Post(t.Context(), "msg_1", time.Now(), []byte("{}")); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("no message: %v", err)
	}
}

func TestNew(t *testing.T) {
	good := mail.Config{Server: "smtps://mail.example.com", From: "a@example.com", To: "b@example.com", User: "u", Password: "SECRET"}
	for want, change := range map[string]func(c *mail.Config){
		"": func(*mail.Config) {},
		"want smtps://HOST or smtp://HOST, with a port":           func(c *mail.Config) { c.Server = "mail.example.com:465" },
		"want smtps://HOST or smtp://HOST, with a port or":        func(c *mail.Config) { c.Server = "smtps://u:SECRET@mail.example.com" },
		"want smtps://HOST or smtp://HOST, with a port or withou": func(c *mail.Config) { c.Server = "https://mail.example.com" },
		"want smtps://HOST or smtp://HOST":                        func(c *mail.Config) { c.Server = "" },
		`from: "Tollgate <a@example.com>" is no address`:          func(c *mail.Config) { c.From = "Tollgate <a@example.com>" },
		`to: "" is no address`:                                    func(c *mail.Config) { c.To = "b@example.com," },
		`to: "b@example.com\r\nDATA" is no address`:               func(c *mail.Config) { c.To = "b@example.com\r\nDATA" },
		"to: 21 addresses, at most 20":                            func(c *mail.Config) { c.To = strings.Repeat("b@example.com,", 20) + "b@example.com" },
		"a user and a password go together":                       func(c *mail.Config) { c.User = "" },
	} {
		c := good
		change(&c)
		m, err := mail.New(c, guard.New(nil))
		if (err == nil) != (want == "") || err != nil && (!strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%v, want %s", err, want)
		}
		if err == nil && m.Server() != "mail.example.com:465" {
			t.Errorf("%s", m.Server())
		}
	}
}
