package connect_test

import (
	"net"
	"strings"
	"testing"
)

// A port without TLS says nothing to a handshake, or something else: the error says what to write.
func TestTLSToAPortWithoutIt(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *server) []string { return []string{"--port", s.port} })
	chatty, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer chatty.Close()
	go func() {
		for {
			c, err := chatty.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("-ERR what is this\r\n"))
			defer c.Close()
		}
	}()
	for _, address := range []string{s.address(), chatty.Addr().String()} {
		err := ping(t, "rediss://"+address)
		if want := "TLS: " + address + " does not answer the handshake; for a port without TLS write redis:// in place of rediss://"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
