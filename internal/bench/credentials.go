// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"

	certutil "k8s.io/client-go/util/cert"
)

// credentials are what a started target serves with and how bench is its administrator. Generated per work directory.
type credentials struct {
	certFile, keyFile string // serving certificate; the certificate file also holds its authority
	caPEM             []byte // what clients trust
	serviceAccountKey string // path of a private key
	tokenFile         string // static token of a user in system:masters
	token             string
}

func newCredentials(dir string) (*credentials, error) {
	if err := makeDirs(dir); err != nil {
		return nil, err
	}
	c := &credentials{
		certFile:          filepath.Join(dir, "serving.crt"),
		keyFile:           filepath.Join(dir, "serving.key"),
		serviceAccountKey: filepath.Join(dir, "service-account.key"),
		tokenFile:         filepath.Join(dir, "tokens.csv"),
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
	secret := make([]byte, 24)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	c.token = hex.EncodeToString(secret)
	for path, content := range map[string][]byte{
		c.certFile:          cert,
		c.keyFile:           key,
		c.serviceAccountKey: saPEM,
		c.tokenFile:         []byte(c.token + `,weir-bench,weir-bench,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, fmt.Errorf("write credentials: %w", err)
		}
	}
	return c, nil
}
