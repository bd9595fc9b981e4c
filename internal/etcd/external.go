// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/version"
)

const (
	// askTimeout bounds one question to one member; a member that is there answers in
	// milliseconds.
	askTimeout = 2 * time.Second
	// askPause is between two questions to a member that does not answer.
	askPause = 250 * time.Millisecond
)

// External is somebody's etcd cluster, as kube-apiserver's flags name it. Empty file
// names mean what they mean there.
type External struct {
	Endpoints                 []string
	CertFile, KeyFile, CAFile string
}

// Member is one endpoint's answer.
type Member struct {
	Endpoint string
	Version  string // "3.5.12"; empty if Err is set
	Err      error
}

// Check asks every endpoint for its version and returns the answers in the order of
// Endpoints. It waits until ctx ends for the first answer, and not much longer than
// that for the others. The error says that nobody answered, and why.
func (x External) Check(ctx context.Context) ([]Member, error) {
	tlsInfo := transport.TLSInfo{CertFile: x.CertFile, KeyFile: x.KeyFile, TrustedCAFile: x.CAFile}
	config := clientv3.Config{Endpoints: x.Endpoints, Logger: zap.NewNop()}
	if x.CertFile != "" || x.KeyFile != "" || x.CAFile != "" {
		tlsConfig, err := tlsInfo.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("cannot use the etcd client certificate files: %w", err)
		}
		config.TLS = tlsConfig
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of etcd at %s: %w", strings.Join(x.Endpoints, ","), err)
	}
	defer func() { _ = client.Close() }()

	// The first answer shortens the wait for the rest.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first sync.Once
	answered := func() { first.Do(func() { time.AfterFunc(askTimeout, cancel) }) }

	members := make([]Member, len(x.Endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range x.Endpoints {
		wg.Go(func() {
			members[i] = ask(ctx, client, config.TLS, endpoint)
			if members[i].Err == nil {
				answered()
			}
		})
	}
	wg.Wait()

	var causes []error
	for _, m := range members {
		if m.Err == nil {
			return members, nil
		}
		causes = append(causes, fmt.Errorf("%s: %w", m.Endpoint, m.Err))
	}
	return nil, fmt.Errorf("no etcd answers at --etcd-servers: %w", errors.Join(causes...))
}

// ask repeats the question until the member answers or ctx ends.
func ask(ctx context.Context, client *clientv3.Client, tlsConfig *tls.Config, endpoint string) Member {
	m := Member{Endpoint: endpoint}
	for {
		version, err := askOnce(ctx, client, tlsConfig, endpoint)
		if err == nil {
			m.Version, m.Err = version, nil
			return m
		}
		// That the time is over says less than what went wrong before.
		if m.Err == nil || ctx.Err() == nil {
			m.Err = err
		}
		select {
		case <-ctx.Done():
			return m
		case <-time.After(askPause):
		}
	}
}

func askOnce(ctx context.Context, client *clientv3.Client, tlsConfig *tls.Config, endpoint string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := reach(ctx, tlsConfig, endpoint); err != nil {
		return "", err
	}
	answer, err := client.Status(ctx, endpoint)
	if err != nil {
		s, ok := status.FromError(err)
		switch {
		case !ok:
			return "", err
		case s.Code() == codes.Unimplemented || s.Code() == codes.PermissionDenied || s.Code() == codes.Unauthenticated:
			// Something answers, a proxy or a shim of etcd's API perhaps, and does not tell its
			// version. That is no reason not to start: upstream asks for nothing else either.
			return "", nil
		default:
			return "", errors.New(s.Message()) // gRPC's wrapping helps nobody
		}
	}
	return answer.Version, nil
}

// reach connects as far as the first byte of the server's HTTP/2 settings. A gRPC
// client would say only that its time is over, and write each attempt to the log; this
// says what is wrong: refused, a certificate, something that is no etcd.
func reach(ctx context.Context, tlsConfig *tls.Config, endpoint string) error {
	network, address, secure := "tcp", endpoint, tlsConfig != nil
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		address = strings.TrimSuffix(rest, "/")
		secure = strings.HasSuffix(scheme, "s")
		if strings.HasPrefix(scheme, "unix") {
			network = "unix"
		}
	}
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if secure {
		config := tlsConfig.Clone() // nil stays nil: the system's roots
		if config == nil {
			config = &tls.Config{}
		}
		config.NextProtos = []string{"h2"}
		dialer = &tls.Dialer{Config: config}
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	emptySettings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(conn, http2.ClientPreface+emptySettings); err != nil {
		return err
	}
	// In TLS 1.3 a server rejects a client's certificate only after the handshake.
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return fmt.Errorf("it does not answer like etcd: %w", err)
	}
	if first[0] != 0 { // a settings frame is shorter than 64 KiB
		return errors.New("it does not answer like etcd: no HTTP/2")
	}
	return nil
}

// The releases from which a watch's progress can be asked for reliably, as in
// k8s.io/apiserver/pkg/storage/feature, which keeps them to itself: etcd issues 15220
// and 17507.
var (
	floor34 = version.MustParseSemantic("3.4.31")
	line35  = version.MustParseSemantic("3.5.0")
	floor35 = version.MustParseSemantic("3.5.13")
)

// Floors names those releases for people.
const Floors = "3.4.31, or 3.5.13 in the 3.5 line"

// AnswersProgressRequests reports whether the member can say how far a watch has come, which is
// what consistent reads from a cache are built on. False for a version that cannot be
// read.
func (m Member) AnswersProgressRequests() bool {
	v, err := version.ParseSemantic(m.Version)
	return err == nil && v.AtLeast(floor34) && (v.LessThan(line35) || v.AtLeast(floor35))
}
