package grpcserver_test

import (
	"fmt"
	"sync"
	"testing"
	"net"
	"syscall"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

func TestZZ(t *testing.T) {
	file, grant, req := pictify(t)
	a := extauthztest.AuthorizerOf(t, file, atOnce{grant})
	s := grpcserver.New(a, grpcserver.Config{})
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go s.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	var m authv3.CheckRequest
	proto.Unmarshal(req, &m)
	client := authv3.NewAuthorizationClient(conn)
	run := func(n int) time.Duration {
		var a, b syscall.Rusage
		syscall.Getrusage(0, &a)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range n / 16 {
					if _, err := client.Check(t.Context(), &m); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		syscall.Getrusage(0, &b)
		return time.Duration(b.Utime.Nano()+b.Stime.Nano()-a.Utime.Nano()-a.Stime.Nano()) / time.Duration(n)
	}
	run(20000)
	for range 4 {
		fmt.Println("none", run(40000))
	}
	logs, _ := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	for range 200 {
		st, err := accesslogv3.NewAccessLogServiceClient(logs).StreamAccessLogs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Send(&accesslogv3.StreamAccessLogsMessage{Identifier: &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "x"}, LogName: "tollgate"}})
	}
	for range 4 {
		fmt.Println("200 streams", run(40000), len(s.AccessLogs()))
	}
}
