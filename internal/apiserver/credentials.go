// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// renewBefore is when a certificate is replaced at start: a server that is
	// restarted once a month never serves an expired one.
	renewBefore = 30 * 24 * time.Hour
)

// keyring is the directory of generated keys and certificates. Whatever is in it and
// still good is used again, so that credentials survive restarts.
type keyring struct{ dir string }

func openKeyring(dir string) (keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return keyring{}, fmt.Errorf("cannot make the directory of generated keys: %w", err)
	}
	return keyring{dir: dir}, nil
}

func (k keyring) path(name string) string { return filepath.Join(k.dir, name) }

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// authority returns the CA kept under name, made now if there is none.
func (k keyring) authority(name string) (*authority, error) {
	certPEM, err := os.ReadFile(k.path(name + ".crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return k.newAuthority(name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the generated CA: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(k.path(name+".crt"), k.path(name+".key"))
	if err != nil {
		return nil, fmt.Errorf("the generated CA %s does not go with its key: %w (restore both files, or remove both to have new ones; clients then need the new admin.kubeconfig)",
			k.path(name+".crt"), err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key of the generated CA %s cannot sign", k.path(name+".key"))
	}
	return &authority{cert: pair.Leaf, key: signer, pem: certPEM}, nil
}

func (k keyring) newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot generate a CA key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "weir-" + name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, certPEM, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without a key would be found broken at the next start.
	if err := k.writeKey(name, key); err != nil {
		return nil, err
	}
	if err := writeFile(k.path(name+".crt"), certPEM, 0o600); err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: certPEM}, nil
}

// certificate returns the files of a certificate that ca has signed for what wanted
// says, and makes a new pair unless the kept one says the same and lasts.
func (k keyring) certificate(name string, ca *authority, wanted x509.Certificate) (certFile, keyFile string, err error) {
	certFile, keyFile = k.path(name+".crt"), k.path(name+".key")
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && stillGood(pair.Leaf, ca, &wanted) {
		return certFile, keyFile, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("cannot generate a key: %w", err)
	}
	now := time.Now()
	wanted.NotBefore, wanted.NotAfter = now.Add(-time.Hour), now.Add(leafLife)
	wanted.KeyUsage = x509.KeyUsageDigitalSignature
	_, certPEM, err := sign(&wanted, ca.cert, key.Public(), ca.key)
	if err != nil {
		return "", "", err
	}
	if err := k.writeKey(name, key); err != nil {
		return "", "", err
	}
	return certFile, keyFile, writeFile(certFile, certPEM, 0o600)
}

func stillGood(cert *x509.Certificate, ca *authority, wanted *x509.Certificate) bool {
	if cert.CheckSignatureFrom(ca.cert) != nil || time.Now().Add(renewBefore).After(cert.NotAfter) {
		return false
	}
	if cert.Subject.String() != wanted.Subject.String() {
		return false
	}
	for _, name := range wanted.DNSNames {
		if cert.VerifyHostname(name) != nil {
			return false
		}
	}
	for _, ip := range wanted.IPAddresses {
		if cert.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

// signingKey returns the file of the service account token key, which is kept for
// ever: tokens that were issued have to stay valid.
func (k keyring) signingKey(name string) (string, error) {
	file := k.path(name + ".key")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return "", fmt.Errorf("cannot generate the service account key: %w", err)
	}
	return file, writeFile(file, key, 0o600)
}

func (k keyring) writeKey(name string, key crypto.PrivateKey) error {
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("cannot encode the key of %s: %w", name, err)
	}
	return writeFile(k.path(name+".key"), keyPEM, 0o600)
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, []byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot draw a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot sign a certificate for %s: %w", template.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read back the certificate for %s: %w", template.Subject, err)
	}
	var out bytes.Buffer
	certs, err := certutil.EncodeCertificates(cert)
	out.Write(certs)
	return cert, out.Bytes(), err
}

// writeFile replaces a file as a whole, or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("cannot write %s: %w", path, err)
		}
	}()
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// serverNames are what the serving certificate is good for: this host, the addresses
// the server is reached at, and the names that pods know it by.
func serverNames(ips ...net.IP) x509.Certificate {
	c := x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		c.DNSNames = append(c.DNSNames, host)
	}
	for _, ip := range ips {
		if ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			c.IPAddresses = append(c.IPAddresses, ip)
		}
	}
	return c
}

// clientName is a certificate that a client shows.
func clientName(name string, groups ...string) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}
