package connect

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// newCluster makes a client that follows MOVED and ASK, and sends nothing a second time otherwise.
// go-redis counts both as one thing, MaxRedirects, whatever MaxRetries says: a connection that ends
// after the command was written is a reason for it to write the command again, and a pipeline whose
// first command is told to wait is sent again as a whole.
func newCluster(o *redis.ClusterOptions) *redis.ClusterClient {
	c := redis.NewClusterClient(o)
	c.AddHook(onceHook{c})
	return c
}

// onceHook marks commands as not to be repeated.
type onceHook struct{ cluster *redis.ClusterClient }

// once is a command that is sent at most once, apart from redirects, which say that it was not
// carried out.
type once struct{ redis.Cmder }

// NoRetry overrides that of every command.
func (once) NoRetry() bool { return true }

// DialHook changes nothing.
func (h onceHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook marks one command.
func (h onceHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, once{cmd})
		h.notice(ctx, err)
		return err
	}
}

// ProcessPipelineHook marks the commands of a pipeline or transaction.
func (h onceHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		marked := make([]redis.Cmder, len(cmds))
		for i, cmd := range cmds {
			marked[i] = once{cmd}
		}
		err := next(ctx, marked)
		h.notice(ctx, err)
		return err
	}
}

// notice looks for the slots' new masters if a node did not answer: only redirects make go-redis do
// that, and a dead node sends none. Its look-ups are at least 200 ms apart.
func (h onceHook) notice(ctx context.Context, err error) {
	var answer redis.Error
	if err != nil && !errors.As(err, &answer) && !errors.Is(err, context.Canceled) {
		h.cluster.ReloadState(ctx)
	}
}

// wholeHook sees to it that the commands of a pipeline tell how it went. go-redis leaves them
// without an error, and so with an empty answer, where the connection was not made because Redis
// refused its greeting: with WRONGPASS, say.
type wholeHook struct{}

// DialHook changes nothing.
func (wholeHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook changes nothing: a command by itself has its error.
func (wholeHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook gives the commands the error of their pipeline where none has one.
func (wholeHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err == nil {
			return nil
		}
		for _, cmd := range cmds {
			if cmd.Err() != nil {
				return err // it was sent
			}
		}
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
		return err
	}
}
