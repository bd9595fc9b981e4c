// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// Every flag of kube-apiserver is there under both names of the program, with the same
// default and the same words.
func TestFlagsAreUpstreams(t *testing.T) {
	upstream := app.NewAPIServerCommand()
	for _, name := range []string{"weir", dropIn} {
		ours := newCommand(name)
		if name != dropIn {
			var err error
			if ours, _, err = ours.Find([]string{"serve"}); err != nil {
				t.Fatal(err)
			}
		}
		count := 0
		upstream.Flags().VisitAll(func(want *pflag.Flag) {
			count++
			got := ours.Flags().Lookup(want.Name)
			switch {
			case got == nil:
				t.Errorf("%s: --%s is missing", name, want.Name)
			case want.Name == "help": // says the command's own name
			case got.DefValue != want.DefValue || got.Usage != want.Usage || got.Deprecated != want.Deprecated ||
				got.NoOptDefVal != want.NoOptDefVal || got.Shorthand != want.Shorthand || got.Value.Type() != want.Value.Type():
				t.Errorf("%s: --%s is %+v, upstream's is %+v", name, want.Name, got, want)
			}
		})
		if count < 150 {
			t.Errorf("upstream has only %d flags: the test looks at the wrong thing", count)
		}
	}
}

// Started by that name, as envtest and kubeadm do, and beside an external etcd with TLS,
// weir is kube-apiserver: it writes what that writes and nothing of stand-alone mode.
func TestDropIn(t *testing.T) {
	t.Parallel()
	etcd, tls := secureEtcd(t)
	c := dropInServer(t, dropIn, "--etcd-servers="+etcd,
		"--etcd-cafile="+tls.TrustedCAFile, "--etcd-certfile="+tls.CertFile, "--etcd-keyfile="+tls.KeyFile)
	createAndList(t, c)
	if body := c.get("/version"); !strings.Contains(body, `"gitVersion": "v1.37.2"`) {
		t.Errorf("/version: %s", body)
	}
	if code := c.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM\n%s", code, c.log)
	}
	if left := contents(t, c.cmd.Dir); len(left) != 0 {
		t.Errorf("files in the working directory: %v", left)
	}

	out, err := command(t, dropIn, "--version").Output()
	if err != nil || string(out) != "Kubernetes v1.37.2\n" {
		t.Errorf("--version: %q, %v", out, err)
	}
	// The same certificate files, wrong: etcd says so only after the TLS handshake, for which there may be no time on a busy machine.
	line := "i/o timeout"
	for tries := 0; strings.Contains(line, "i/o timeout") && tries < 5; tries++ {
		cmd := command(t, dropIn, "--etcd-servers="+etcd, "--etcd-cafile="+tls.TrustedCAFile)
		cmd.Stderr = new(strings.Builder)
		if err := run(t, cmd); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("without etcd's client certificate: %v, want exit status 1", err)
		}
		line = fmt.Sprint(cmd.Stderr)
	}
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, "certificate required") {
		t.Errorf("without etcd's client certificate stderr is not the one line expected:\n%s", line)
	}
}

// weir and stock take turns on one etcd: each reads what the other wrote, byte for byte.
func TestTakesTurnsWithStock(t *testing.T) {
	t.Parallel()
	etcd, tls := secureEtcd(t)
	flags := []string{"--etcd-servers=" + etcd,
		"--etcd-cafile=" + tls.TrustedCAFile, "--etcd-certfile=" + tls.CertFile, "--etcd-keyfile=" + tls.KeyFile}
	var written []string // paths
	said := map[string]string{}
	for turn, name := range []string{dropIn, stock, dropIn} {
		c := dropInServer(t, name, flags...)
		for _, path := range written {
			if got := c.get(path); got != said[path] {
				t.Errorf("turn %d, %s says of %s:\n%s\nthe one before said:\n%s", turn, name, path, got, said[path])
			}
		}
		object := fmt.Sprintf("turn-%d", turn)
		_, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.client.CoreV1().Secrets(object).Create(t.Context(),
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: object}, Data: map[string][]byte{"turn": {byte(turn)}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, "/api/v1/namespaces/"+object, "/api/v1/namespaces/"+object+"/secrets/"+object)
		for _, path := range written {
			said[path] = c.get(path)
		}
		if code := c.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("turn %d: exit status %d after SIGTERM\n%s", turn, code, c.log)
		}
	}
}

// An etcd from before progress requests is named in a warning, and consistent reads are
// answered by way of etcd instead of waiting for a progress that nobody reports.
func TestOldEtcd(t *testing.T) {
	t.Parallel()
	secure, tls := secureEtcd(t)
	old := oldEtcd(t, secure, tls)
	c := dropInServer(t, dropIn, "--etcd-servers="+old)
	createAndList(t, c)
	var warnings int
	for line := range strings.Lines(c.log.String()) {
		if strings.HasPrefix(line, "W") && strings.Contains(line, "etcd is older than 3.4.31") && strings.Contains(line, "(3.5.12)") {
			warnings++
		}
	}
	if warnings != 1 {
		t.Errorf("%d warnings about the old etcd, want 1\n%s", warnings, c.log)
	}
}

// createAndList writes and at once reads what was written, at the most recent revision.
func createAndList(t *testing.T, c *child) {
	t.Helper()
	for i := range 3 {
		want := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}
		if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), want, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		list, err := c.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, n := range list.Items {
			found = found || n.Name == want.Name
		}
		if !found {
			t.Errorf("a list after the creation of %s does not have it", want.Name)
		}
	}
}

// dropInServer runs weir as kube-apiserver, or stock, with the flags that envtest gives.
func dropInServer(t *testing.T, name string, args ...string) *child {
	t.Helper()
	dir := t.TempDir()
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keyFile, tokenFile, port := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens"), freePort(t)
	for file, data := range map[string]string{keyFile: string(key), tokenFile: `sesame,admin,admin,"system:masters"` + "\n"} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := &rest.Config{Host: "https://127.0.0.1:" + port, BearerToken: "sesame", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	return start(t, func() (*rest.Config, error) { return config, nil }, name, append([]string{
		"--secure-port=" + port,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + dir,
		"--token-auth-file=" + tokenFile,
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://127.0.0.1:" + port,
		"--service-account-key-file=" + keyFile,
		"--service-account-signing-key-file=" + keyFile,
		"--allow-privileged=true",
		"--disable-admission-plugins=ServiceAccount",
		"--authorization-mode=RBAC",
	}, args...)...)
}

// secureEtcd runs an etcd of its own that asks for a client certificate, and returns its
// URL and the files a client needs.
func secureEtcd(t *testing.T) (string, transport.TLSInfo) {
	t.Helper()
	tls, err := transport.SelfCert(zap.NewNop(), t.TempDir(), []string{"127.0.0.1:0"}, 1, x509.ExtKeyUsageClientAuth)
	if err != nil {
		t.Fatal(err)
	}
	tls.TrustedCAFile, tls.ClientCertAuth = tls.CertFile, true
	client := url.URL{Scheme: "https", Host: "127.0.0.1:" + freePort(t)}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.ClientTLSInfo = tls
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	<-etcd.Server.ReadyNotify()
	return client.String(), tls
}

// oldEtcd puts etcd's own gRPC proxy before an etcd. It says that it is 3.5.12 and, like that
// release at times, does not answer progress requests.
func oldEtcd(t *testing.T, endpoint string, tls transport.TLSInfo) string {
	t.Helper()
	config, err := tls.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	kv, kvDone := grpcproxy.NewKvProxy(client)
	watch, watchDone := grpcproxy.NewWatchProxy(ctx, zap.NewNop(), client)
	lease, leaseDone := grpcproxy.NewLeaseProxy(ctx, client)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, kv)
	pb.RegisterWatchServer(server, watch)
	pb.RegisterLeaseServer(server, lease)
	pb.RegisterMaintenanceServer(server, oldMaintenance{grpcproxy.NewMaintenanceProxy(client)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		server.Stop()
		_ = client.Close()
		<-kvDone
		<-watchDone
		<-leaseDone
	})
	return "http://" + l.Addr().String()
}

type oldMaintenance struct{ pb.MaintenanceServer }

func (m oldMaintenance) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	s, err := m.MaintenanceServer.Status(ctx, r)
	if s != nil {
		s.Version = "3.5.12"
	}
	return s, err
}
