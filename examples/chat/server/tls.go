package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// A certificate has the flags for TLS.
type certificate struct {
	file, key  string
	selfSigned bool
}

// Listen listens at addr, over TLS if a flag says so. It also fails if another option has a senseless
// value.
func (o *Options) Listen(addr string) (net.Listener, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	config, err := o.tls.config(addr)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil || config == nil {
		return l, err
	}
	return tls.NewListener(l, config), nil
}

// IsTLS reports whether Listen uses TLS.
func (o *Options) IsTLS() bool { return o.tls != certificate{} }

// config returns the configuration for a server at addr, or nil if TLS is not wanted.
func (c *certificate) config(addr string) (*tls.Config, error) {
	var cert tls.Certificate
	var err error
	switch {
	case *c == certificate{}:
		return nil, nil
	case c.selfSigned && (c.file != "" || c.key != ""):
		return nil, errors.New("-tls-self-signed does not go with -tls-cert and -tls-key")
	case c.selfSigned:
		cert, err = selfSigned(addr)
	case c.file == "" || c.key == "":
		return nil, errors.New("-tls-cert and -tls-key go together")
	default:
		cert, err = tls.LoadX509KeyPair(c.file, c.key)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate for TLS: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, nil
}

// selfSigned makes a certificate for this machine and for the host in addr. Nobody has a reason to
// trust it. It is lost at the end of the process.
func selfSigned(addr string) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if host, _, err := net.SplitHostPort(addr); err == nil && host != "" {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
