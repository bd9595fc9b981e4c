// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testKeyring(t *testing.T) (keyring, *authority) {
	t.Helper()
	k, err := openKeyring(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := k.authority("ca")
	if err != nil {
		t.Fatal(err)
	}
	return k, ca
}

func load(t *testing.T, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// A certificate is kept as long as it says what is wanted and lasts, and verifies against
// the CA for its use and for no other.
func TestCertificateIsKeptOrReplaced(t *testing.T) {
	k, ca := testKeyring(t)
	issue := func(wanted x509.Certificate) *x509.Certificate {
		t.Helper()
		certFile, keyFile, err := k.certificate("apiserver", ca, wanted)
		if err != nil {
			t.Fatal(err)
		}
		return load(t, certFile, keyFile)
	}
	first := issue(serverNames(net.ParseIP("10.96.0.1")))

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	for _, name := range []string{"localhost", "127.0.0.1", "10.96.0.1", "kubernetes.default.svc"} {
		if _, err := first.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := first.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the serving certificate is good as a client's")
	}

	again, err := k.authority("ca")
	if err != nil || !again.cert.Equal(ca.cert) {
		t.Errorf("the CA is not kept: %v", err)
	}
	if kept := issue(serverNames(net.ParseIP("10.96.0.1"))); !kept.Equal(first) {
		t.Error("a good certificate was replaced")
	}
	other := issue(serverNames(net.ParseIP("10.96.0.1"), net.ParseIP("192.0.2.7")))
	if other.Equal(first) || other.VerifyHostname("192.0.2.7") != nil {
		t.Error("a certificate without a wanted address was kept")
	}

	// One that ends soon.
	expiring := *other
	expiring.NotAfter = time.Now().Add(renewBefore / 2)
	wanted := serverNames(net.ParseIP("10.96.0.1"))
	if stillGood(&expiring, ca, &wanted) {
		t.Error("a certificate that ends soon is kept")
	}
	// One that another CA has signed.
	_, stranger := testKeyring(t)
	if stillGood(other, stranger, &wanted) {
		t.Error("a certificate of another CA is kept")
	}
}

// Half of the generated CA is nobody's to replace: clients trust the whole.
func TestBrokenAuthority(t *testing.T) {
	k, _ := testKeyring(t)
	if err := os.Remove(k.path("ca.key")); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(k.path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.authority("ca"); err == nil || !strings.Contains(err.Error(), "remove both") {
		t.Errorf("%v, want an error that says what to do", err)
	}
	if after, err := os.ReadFile(k.path("ca.crt")); err != nil || string(after) != string(before) {
		t.Errorf("the CA was touched: %v", err)
	}
}

// A start that was killed between the CA's key and its certificate is begun again.
func TestAuthorityAfterKill(t *testing.T) {
	k, _ := testKeyring(t)
	if err := os.Remove(k.path("ca.crt")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.authority("ca"); err != nil {
		t.Error(err)
	}
	load(t, k.path("ca.crt"), k.path("ca.key"))
}

func TestWriteFileIsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := writeFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "two" {
		t.Errorf("%q, %v", got, err)
	}
	// A directory in the way: the write fails at its last step.
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "taken"), []byte("three"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("temporary files stay behind: %v, %v", entries, err)
	}
}
