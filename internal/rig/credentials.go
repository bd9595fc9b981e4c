// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"

	certutil "k8s.io/client-go/util/cert"
)

// credentials are what the servers of a room serve with and who their administrator is. Made once for a room.
type credentials struct {
	certFile, keyFile string // serving certificate; the certificate file also holds its authority
	caPEM             []byte // what clients trust
	serviceAccountKey string // path of a private key
	tokenFile         string // static token of a user in system:masters
	token             string
}

// newCredentials makes them in dir. An empty token is made up.
func newCredentials(dir, admin, token string) (*credentials, error) {
	if err := makeDirs(dir); err != nil {
		return nil, err
	}
	c := &credentials{
		certFile:          filepath.Join(dir, "serving.crt"),
		keyFile:           filepath.Join(dir, "serving.key"),
		serviceAccountKey: filepath.Join(dir, "service-account.key"),
		tokenFile:         filepath.Join(dir, "tokens.csv"),
		token:             token,
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"})
	if err != nil {
		return nil, fmt.Errorf("generate the serving certificate: %w", err)
	}
	c.caPEM = cert
	saKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generate the service account key: %w", err)
	}
	saPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(saKey)})
	if c.token == "" {
		c.token = rand.Text()
	}
	for path, content := range map[string][]byte{
		c.certFile:          cert,
		c.keyFile:           key,
		c.serviceAccountKey: saPEM,
		c.tokenFile:         fmt.Appendf(nil, "%s,%s,%s,\"system:masters\"\n", c.token, admin, admin),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, fmt.Errorf("write credentials: %w", err)
		}
	}
	return c, nil
}

// makeDirs creates directories that only this user may enter: they hold keys.
func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}
