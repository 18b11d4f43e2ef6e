# Where titus-executor puts the logs of tasks.

resource "aws_s3_bucket" "log" {
  #checkov:skip=CKV_AWS_18:A log of the access to logs is for those who must keep one.
  #checkov:skip=CKV_AWS_21:A log is written once, so there are no versions to keep.
  #checkov:skip=CKV_AWS_144:A copy of logs in another region is for those who must keep one.
  #checkov:skip=CKV2_AWS_62:Nothing waits for an event of this bucket.
  bucket        = var.s3_log_bucket_name
  force_destroy = true # or `terraform destroy` fails as soon as a task ran
}

resource "aws_s3_bucket_public_access_block" "log" {
  bucket                  = aws_s3_bucket.log.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# The executor sends each log with the ACL bucket-owner-full-control, the only one that this allows.
resource "aws_s3_bucket_ownership_controls" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# With the account's own key for S3, which needs no further permission.
resource "aws_s3_bucket_server_side_encryption_configuration" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    id     = "expire"
    status = "Enabled"
    filter {}

    expiration {
      days = 90
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}
