package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"tollgate/cmd/tollgate-bench/bench/load"
	"tollgate/cmd/tollgate/memory"
	"tollgate/extauthz/yardstick"
)

// newLoad is the process that makes the load.
func newLoad() *cobra.Command {
	return &cobra.Command{
		Use: "load", Short: "Make the load (jobs on stdin, results on stdout, JSON)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return load.Serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// newYardstick is the server that bench compares with.
func newYardstick() *cobra.Command {
	var reply, addresses string
	var floor bool
	cmd := &cobra.Command{
		Use: "yardstick", Short: "Serve always-allow, which checks are compared with", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := os.ReadFile(reply)
			if err != nil {
				return fmt.Errorf("--reply: %w", err)
			}
			server := yardstick.Floor(data)
			if floor {
				runtime.GC() // nothing is tuned before what is in use is known
				go memory.Tune(cmd.Context(), memory.DefaultKeys)
			} else if server, err = yardstick.New(data); err != nil {
				return err
			}
			return serveYardstick(cmd.Context(), server, addresses)
		},
	}
	cmd.Flags().StringVar(&reply, "reply", "", "file with the CheckResponse to answer")
	cmd.Flags().BoolVar(&floor, "floor", false, "decode nothing")
	cmd.Flags().StringVar(&addresses, "addresses-file", "", "file that gets the chosen addresses as JSON")
	return cmd
}

// serveYardstick serves until a signal, with /metrics as tollgate serve has them.
func serveYardstick(ctx context.Context, server *grpc.Server, file string) error {
	stop, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()
	grpcListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	httpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	status := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(grpcListener) }()
	go func() { ended <- status.Serve(httpListener) }()
	text := fmt.Sprintf("{\"grpc\":\"%s\",\"http\":\"%s\"}\n", grpcListener.Addr(), httpListener.Addr())
	if err = writeFile(file, text); err == nil {
		select {
		case <-stop.Done():
		case err = <-ended:
		}
	}
	server.Stop()
	return errors.Join(err, status.Close())
}

// writeFile writes a file so that nobody ever reads half of it.
func writeFile(path, text string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
