package nri

import (
	"context"
	"fmt"
	"log/slog"
)

// logger is the log as the stub wants it.
type logger struct{ log *slog.Logger }

func (l logger) say(ctx context.Context, level slog.Level, format string, args []any) {
	l.log.Log(ctx, level, "engine", "said", fmt.Sprintf(format, args...))
}

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelDebug, format, args)
}

func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelDebug, format, args) // each question of the engine is one
}

func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelWarn, format, args)
}

func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelError, format, args)
}
