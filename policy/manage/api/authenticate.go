package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// call is what is known of a request.
type call struct {
	id      string
	address netip.Addr // of the client; not valid on a unix socket
	who     roles.Actor
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return &call{} // nobody, who may do nothing
	}
	return c
}

// authenticate finds out whose token a request carries, and says why it is refused, nil if it is
// not. An address with too many failures waits, whatever it presents: else each guess would cost
// the store a question.
func (a *API) authenticate(h http.Header, r *http.Request, c *call) *Problem {
	from, now := networkOf(c.address), a.config.Now()
	if wait := a.logins.spent(from, now); wait > 0 {
		h.Set("Retry-After", seconds(wait))
		return newProblem(codeTooManyLogins, "")
	}
	refused := func(code, detail string) *Problem {
		a.logins.take(from, now)
		h.Set("WWW-Authenticate", `Bearer realm="tollgate"`)
		return newProblem(code, detail)
	}
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return refused(codeNoToken, "")
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return refused(codeNoToken, "")
	}
	member, err := a.config.Store.MemberByToken(r.Context(), token)
	switch {
	case errors.Is(err, store.ErrToken):
		return refused(codeBadToken, "")
	case err != nil:
		return a.problemOf(r.Context(), err, false)
	}
	c.who = member.Actor()
	if c.address.IsValid() {
		c.who.Address = c.address.String()
	}
	return nil
}

// addressOf is the address of the client: that of the peer, or what trusted proxies say it is. Of
// X-Forwarded-For the last address that is not such a proxy's counts, because what stands before it
// is what that client has written.
func (a *API) addressOf(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address := peer.Addr().Unmap().WithZone("")
	if !a.trusts(address) {
		return address
	}
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(list[i]))
		if err != nil {
			return address
		}
		if address = hop.Unmap().WithZone(""); !a.trusts(address) {
			return address
		}
	}
	return address
}

func (a *API) trusts(address netip.Addr) bool {
	for _, p := range a.config.Trusted {
		if p.Contains(address) {
			return true
		}
	}
	return false
}

// networkOf is whom a failed log-in is counted against: one client has at least a /64 of IPv6.
func networkOf(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	bits := 32
	if address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits)
	return network.String()
}

// health remembers for a moment what a question to the store has found, so that nobody can have it
// asked at will.
type health struct {
	mu    sync.Mutex
	until time.Time
	err   error
}

const healthTime = time.Second

// ask returns what question says, or has said less than healthTime ago.
func (h *health) ask(ctx context.Context, now func() time.Time, question func(context.Context) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !now().Before(h.until) {
		h.err = question(ctx)
		h.until = now().Add(healthTime)
	}
	return h.err
}

func (a *API) serveReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), healthTime)
	defer cancel()
	if err := a.health.ask(ctx, a.config.Now, a.config.Ready); err != nil {
		text(w, http.StatusServiceUnavailable, "not ready: the store does not answer, or is not the one of these settings; the log says more\n")
		return
	}
	text(w, http.StatusOK, "ready\n")
}
