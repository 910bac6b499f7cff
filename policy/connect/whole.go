package connect

import (
	"context"

	"github.com/redis/go-redis/v9"
)

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
