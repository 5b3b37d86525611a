/* Answers as the stores give them: element for element, with other names. */
#ifndef S3_XML_SAMPLES_H
#define S3_XML_SAMPLES_H

#define XML    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define XMLNS  " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
#define MD5_A  "5d41402abc4b2a76b9719d911017c592"
#define TIME_A "2009-10-12T17:50:30.000Z"
#define MS_A   INT64_C(1255369830000)

static const char list_aws[] = XML
    "<ListBucketResult" XMLNS "><Name>bkt</Name><Prefix>a%2F</Prefix>"
    "<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>"
    "<KeyCount>4</KeyCount><MaxKeys>1000</MaxKeys><Delimiter>%2F</Delimiter>"
    "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
    "<Contents><Key>a/100%25+%2B%C3%BC</Key><LastModified>" TIME_A "</LastModified>"
    "<ETag>&quot;" MD5_A "-38&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>"
    "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
    "<Size>5497558138880</Size><StorageClass>STANDARD</StorageClass></Contents>"
    "<Contents><Key>a/z</Key><LastModified>2023-02-28T23:59:59.000Z</LastModified>"
    "<ETag>&quot;" MD5_A
    "&quot;</ETag><Size>0</Size><Owner><ID>75aa57f09aa0c8caeab4f8c24e99d10f</ID>"
    "</Owner><StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false"
    "</IsRestoreInProgress></RestoreStatus></Contents>"
    "<CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes>"
    "<CommonPrefixes><Prefix>a/c+d/</Prefix></CommonPrefixes></ListBucketResult>";
#define LIST_AWS_HOLDS                                                                             \
    "truncated, then 1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=\n"                              \
    "a/100% +\xC3\xBC 5497558138880 1255369830000 " MD5_A "-38\n"                                  \
    "*a/b/\n*a/c d/\n"                                                                             \
    "a/z 0 1677628799000 " MD5_A "\n"

/* Prefixes first, '/' encoded, a token that is the last key, raw: with the control character in a
 * form that XML forbids. */
static const char list_ceph[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult" XMLNS ">"
    "<EncodingType>url</EncodingType><Name>bkt</Name><Prefix></Prefix><MaxKeys>2</MaxKeys>"
    "<Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>"
    "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>"
    "<Contents><Key>ctl%01%0Ax</Key><LastModified>2026-11-23T06:34:19.033Z</LastModified>"
    "<ETag>&quot;" MD5_A "&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass>"
    "<Type>Normal</Type></Contents>"
    "<Contents><Key>dir%2Fx</Key><LastModified>2026-11-23T06:34:19.012Z</LastModified>"
    "<ETag>&quot;&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass>"
    "<Type>Normal</Type></Contents>"
    "<NextContinuationToken>ctl&#x01;\nx</NextContinuationToken><KeyCount>2</KeyCount>"
    "</ListBucketResult>";
#define LIST_CEPH_HOLDS                                                                            \
    "truncated, then ctl\x01\nx\n"                                                                 \
    "*a/\n"                                                                                        \
    "ctl\x01\nx 5 1795415659033 " MD5_A "\n"                                                       \
    "dir/x 5 1795415659012 \n"

static const char list_swift[] =
    "<?xml version='1.0' encoding='UTF-8'?>\n<ListBucketResult" XMLNS "><Name>bkt</Name><Prefix/>"
    "<NextContinuationToken>eno=</NextContinuationToken><StartAfter>%20</StartAfter>"
    "<KeyCount>2</KeyCount><MaxKeys>2</MaxKeys><EncodingType>url</EncodingType>"
    "<IsTruncated>true</IsTruncated><Contents><Key>a%20b%2Bc</Key><LastModified>" TIME_A
    "</LastModified><ETag>\"" MD5_A "\"</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass>"
    "</Contents><Contents><Key>zz</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
    "<ETag>\"" MD5_A "-N\"</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
    "</ListBucketResult>";
#define LIST_SWIFT_HOLDS                                                                           \
    "truncated, then eno=\na b+c 5 1255369830000 " MD5_A "\nzz 1 0 " MD5_A "-N\n"

static const char list_minio[] = XML
    "<ListBucketResult" XMLNS "><Name>bkt</Name><Prefix></Prefix><KeyCount>1</KeyCount>"
    "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>x</Key>"
    "<LastModified>2021-05-29T11:22:33.444Z</LastModified><ETag>&#34;" MD5_A "&#34;</ETag>"
    "<Size>7</Size><Owner><ID></ID><DisplayName></DisplayName></Owner>"
    "<StorageClass>STANDARD</StorageClass><UserMetadata><content-type>binary/octet-stream"
    "</content-type><Key>another</Key></UserMetadata></Contents><EncodingType>url</EncodingType>"
    "</ListBucketResult>";
#define LIST_MINIO_HOLDS "whole\nx 7 1622287353444 " MD5_A "\n"

static const char list_r2[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult" XMLNS "><Name>bkt</Name>"
    "<IsTruncated>false</IsTruncated><Prefix>s/</Prefix><EncodingType>url</EncodingType>"
    "<MaxKeys>1000</MaxKeys><KeyCount>1</KeyCount><Contents><Key>s%2F%E2%82%AC</Key><Size>9</Size>"
    "<LastModified>2022-05-20T20:12:59.000Z</LastModified><ETag>&quot;" MD5_A "&quot;</ETag>"
    "<StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>";
#define LIST_R2_HOLDS "whole\ns/\xE2\x82\xAC 9 1653077579000 " MD5_A "\n"

static const char uploads_aws[] = XML
    "<ListMultipartUploadsResult" XMLNS "><Bucket>bkt</Bucket><KeyMarker></KeyMarker>"
    "<UploadIdMarker></UploadIdMarker><NextKeyMarker>my movie.m2ts</NextKeyMarker>"
    "<NextUploadIdMarker>YW55IGlkZWEgd2h5</NextUploadIdMarker><MaxUploads>2</MaxUploads>"
    "<IsTruncated>true</IsTruncated><Upload><Key>my+divisor</Key><UploadId>XMgbGlrZSBl</UploadId>"
    "<Initiator><ID>arn:aws:iam::111122223333:user/u</ID><DisplayName>u</DisplayName></Initiator>"
    "<Owner><ID>75aa57f09aa0c8ca</ID><DisplayName>o</DisplayName></Owner>"
    "<StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>"
    "<Upload><Key>my movie.m2ts</Key><UploadId>YW55IGlkZWEgd2h5</UploadId><Initiator><ID>i</ID>"
    "<Key>no</Key></Initiator><StorageClass>STANDARD</StorageClass>"
    "<Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload></ListMultipartUploadsResult>";
#define UPLOADS_AWS_HOLDS                                                                          \
    "truncated, then my movie.m2ts YW55IGlkZWEgd2h5\n"                                             \
    "my+divisor XMgbGlrZSBl 1289422113000\nmy movie.m2ts YW55IGlkZWEgd2h5 1289422113000\n"

static const char uploads_ceph[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListMultipartUploadsResult" XMLNS ">"
    "<Bucket>bkt</Bucket><ListMultipartUploadsResult.Prefix>d</ListMultipartUploadsResult.Prefix>"
    "<NextKeyMarker>d\xC3\xBC+ &#x1f;mp&amp;</NextKeyMarker>"
    "<NextUploadIdMarker>2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc</NextUploadIdMarker>"
    "<MaxUploads>1</MaxUploads><IsTruncated>true</IsTruncated><Upload>"
    "<Key>d\xC3\xBC+ &#x1f;mp&amp;</Key><UploadId>2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc</UploadId>"
    "<Initiator><ID>test</ID><DisplayName>test</DisplayName></Initiator><Owner><ID>test</ID>"
    "<DisplayName>test</DisplayName></Owner><StorageClass>STANDARD</StorageClass>"
    "<Initiated>2026-11-23T06:34:19.196Z</Initiated></Upload></ListMultipartUploadsResult>";
#define UPLOADS_CEPH_HOLDS                                                                         \
    "truncated, then d\xC3\xBC+ \x1Fmp& 2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc\n"                       \
    "d\xC3\xBC+ \x1Fmp& 2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc 1795415659196\n"

static const char uploads_swift[] =
    "<?xml version='1.0' encoding='UTF-8'?>\n<ListMultipartUploadsResult" XMLNS ">"
    "<Bucket>bkt</Bucket><KeyMarker/><UploadIdMarker/><NextKeyMarker></NextKeyMarker>"
    "<NextUploadIdMarker></NextUploadIdMarker><Prefix/><MaxUploads>1000</MaxUploads>"
    "<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
#define UPLOADS_SWIFT_HOLDS "whole\n"

static const char parts_ceph[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListPartsResult" XMLNS "><Bucket>bkt</Bucket>"
    "<Key>p</Key><UploadId>2~Soy9Cq-sKOiUXITCZ6da8FQ3oq9ERcI</UploadId>"
    "<StorageClass>STANDARD</StorageClass><PartNumberMarker>0</PartNumberMarker>"
    "<NextPartNumberMarker>3</NextPartNumberMarker><MaxParts>2</MaxParts>"
    "<IsTruncated>true</IsTruncated><Owner><ID></ID><DisplayName></DisplayName></Owner>"
    "<Part><LastModified>2026-11-23T06:34:19.282Z</LastModified><PartNumber>3</PartNumber>"
    "<ETag>&quot;" MD5_A "&quot;</ETag><Size>6</Size></Part>"
    "<Part><LastModified>2026-11-23T06:34:19.272Z</LastModified><PartNumber>1</PartNumber>"
    "<ETag>&quot;ffc88b4ca90a355f8ddba6b2c3b2af5c&quot;</ETag><Size>5368709120</Size></Part>"
    "</ListPartsResult>";
#define PARTS_CEPH_HOLDS                                                                           \
    "truncated, then 3\n1 5368709120 ffc88b4ca90a355f8ddba6b2c3b2af5c\n3 6 " MD5_A "\n"

static const char error_aws[] =
    XML "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is "
        "malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message>"
        "<Region>eu-central-1</Region><RequestId>D6B6E0ED6F2C2A8E</RequestId>"
        "<HostId>Lm0wMTIzNDU2Nzg5</HostId></Error>";
static const char error_moved[] = XML
    "<Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to access must "
    "be addressed using the specified endpoint.</Message><Endpoint>bkt.s3-eu-west-1.amazonaws.com"
    "</Endpoint><Bucket>bkt</Bucket></Error>";
static const char error_skewed[] =
    XML "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time "
        "and the current time is too large.</Message><RequestTime>20260101T000000Z</RequestTime>"
        "<ServerTime>2026-11-23T06:34:19Z</ServerTime>"
        "<MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds></Error>";
static const char error_ceph[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>NoSuchBucket</Code><Message></Message>"
    "<BucketName>b</BucketName><RequestId>tx000006db76b7f1308c87e-006b03de56-100d-default</"
    "RequestId>"
    "<HostId>100d-default-default</HostId></Error>";

static const char initiated[] =
    XML "<InitiateMultipartUploadResult" XMLNS "><Bucket>bkt</Bucket><Key>ctl&#x1;</Key>"
        "<UploadId>2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc</UploadId></InitiateMultipartUploadResult>";
static const char copied[] = XML "<CopyObjectResult" XMLNS "><LastModified>" TIME_A
                                 "</LastModified><ETag>&quot;" MD5_A "&quot;</ETag>"
                                 "</CopyObjectResult>";
static const char deleted[] = XML
    "<DeleteResult" XMLNS "><Deleted><Key>a</Key></Deleted>"
    "<Error><Key>b &amp;&#13;c&#x1;</Key><Code>AccessDenied</Code><Message>Access Denied</Message>"
    "</Error><Error><Message>m</Message><VersionId>v</VersionId><Key>d</Key></Error>"
    "</DeleteResult>";
static const char assumed[] =
    "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n"
    "  <AssumeRoleWithWebIdentityResult>\n"
    "    <Audience>sts.amazonaws.com</Audience>\n"
    "    <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>\n"
    "    <Credentials>\n"
    "      <SessionToken>AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE</SessionToken>\n"
    "      <SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey>\n"
    "      <Expiration>2014-10-24T23:00:23Z</Expiration>\n"
    "      <AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId>\n"
    "    </Credentials>\n"
    "  </AssumeRoleWithWebIdentityResult>\n"
    "</AssumeRoleWithWebIdentityResponse>\n";

#endif
