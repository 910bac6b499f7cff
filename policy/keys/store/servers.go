package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/policy/keys"
)

// serversKey is a hash: of each server that hears of changes, by its name, "<heard> <seen>
// <longest>": the time of the latest change that it has heard of, when it last said so, both in
// Unix ms by the clock of the store, and for how many ms after that it may serve what it knows
// without the store. In a cluster nodes have clocks of their own, and what is heard from one can
// seem to confirm what comes from another, for as long as they differ.
const serversKey = "tg:v1:servers"

const (
	// Present is how often a server says that it is there, besides what it has heard.
	Present = 2 * HeartbeatInterval
	// serverGone is how long a server that does not say that it has ended is remembered.
	serverGone = 24 * time.Hour
)

// presentSource writes the line of a server, and drops those that are long gone when one comes.
//
// KEYS[1] servers; ARGV: name, heard, longest, serverGone in ms, 1 when it comes.
const presentSource = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[5] == '1' then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local seen = tonumber(string.match(all[i + 1], '^%d+ (%d+) %d+$'))
    if not seen or seen < now - tonumber(ARGV[4]) then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now) .. ' ' .. ARGV[3])`

// markSource publishes a change of no key, after which all that was published before on the same
// connection of a server has arrived, and replies with its time.
//
// KEYS[1] any key of the slot; ARGV: channel, a digest that no secret has.
const markSource = `
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('PUBLISH', ARGV[1], now .. ' ' .. ARGV[2] .. ' -')
return now`

// ConfirmChanges says for a server that it has heard of the changes up to this time, in Unix ms,
// and for how long it may serve what it knows without the store. One that comes drops those that
// are long gone.
func (s *Store) ConfirmChanges(ctx context.Context, server string, heard int64, longest time.Duration, comes bool) error {
	run := s.evenFull(s.scripts.present) // a line for each server, without which no revocation is confirmed
	err := run(ctx, s.client, []string{serversKey}, server, heard, longest.Milliseconds(), serverGone.Milliseconds(), comes).Err()
	if err != nil {
		return fmt.Errorf("keys: store: %w", err)
	}
	return nil
}

// ForgetServer takes a server that ends out of those that have to confirm.
func (s *Store) ForgetServer(ctx context.Context, server string) error {
	return s.client.HDel(ctx, serversKey, server).Err()
}

// Time returns the time of the store's clock.
func (s *Store) Time(ctx context.Context) (time.Time, error) { return s.client.Time(ctx).Result() }

// ErrUnheard says that a key is revoked, and that some servers may still serve it.
var ErrUnheard = errors.New("keys: the change is made, but not every server has confirmed that it has heard of it")

// UnheardError is an ErrUnheard that names the servers.
type UnheardError struct {
	Servers []string // each with the time until which it may serve the key
	Err     error    // why nobody knows, instead
}

// Error names the servers, a line each.
func (e *UnheardError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %v", ErrUnheard, e.Err)
	}
	return ErrUnheard.Error() + ":\n  " + strings.Join(e.Servers, "\n  ")
}

// Is makes errors.Is find ErrUnheard.
func (e *UnheardError) Is(target error) bool { return target == ErrUnheard }

// Unwrap returns why nobody knows.
func (e *UnheardError) Unwrap() error { return e.Err }

// AwaitServers waits until every server has heard of what was changed before in the record of a
// key, at most timeout. Those that have not are in an *UnheardError, unless they cannot serve what
// they know any more.
func (s *Store) AwaitServers(ctx context.Context, id string, timeout time.Duration) error {
	// A server that comes later reads everything anew.
	if all, err := s.client.HGetAll(ctx, serversKey).Result(); err != nil || len(all) == 0 {
		return unheardOf(ctx, err)
	}
	made, err := s.scripts.mark.Run(ctx, s.client, []string{recordKey(id)}, changesChannel, keys.Digest{}.Hex()).Int64()
	if err != nil {
		return unheardOf(ctx, err)
	}
	end := time.NewTimer(timeout)
	defer end.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		lines, err := s.client.HGetAll(ctx, serversKey).Result()
		if err != nil {
			return unheardOf(ctx, err)
		}
		unheard := missing(lines, made)
		if len(unheard) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return &UnheardError{Servers: unheard}
		case <-end.C:
			return &UnheardError{Servers: unheard}
		}
	}
}

func unheardOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return &UnheardError{Err: ReadError(ctx, "", err)}
}

// missing returns the servers that have not heard of a change and may serve what was before.
func missing(lines map[string]string, made int64) (unheard []string) {
	for name, line := range lines {
		var heard, seen, longest int64
		if _, err := fmt.Sscanf(line, "%d %d %d", &heard, &seen, &longest); err != nil {
			unheard = append(unheard, name+": what it has said cannot be read")
			continue
		}
		// It may have heard of nothing a little longer than it could say so.
		until := seen + longest + (Present + MaxSilence).Milliseconds()
		if heard >= made || until < made {
			continue
		}
		unheard = append(unheard, fmt.Sprintf("%s, last seen %s, may serve the key until %s", name, clockTime(seen), clockTime(until)))
	}
	slices.Sort(unheard)
	return unheard
}

func clockTime(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
