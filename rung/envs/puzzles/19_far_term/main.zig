const std = @import("std");

const modulus = 1000003;
const Matrix = [5][5]u64;

fn times(a: Matrix, b: Matrix) Matrix {
    var product: Matrix = undefined;
    for (0..5) |i| {
        for (0..5) |j| {
            var sum: u64 = 0;
            for (0..5) |k| sum += a[i][k] * b[k][j];
            product[i][j] = sum % modulus;
        }
    }
    return product;
}

fn power(step: Matrix, n: u64) Matrix {
    if (n == 1) return step;
    const half = power(step, n / 2);
    const whole = times(half, half);
    return if (n % 2 == 1) times(whole, step) else whole;
}

pub fn main() void {
    // On (t(n), t(n-1), t(n-2), n + 1, 1).
    const step = Matrix{
        .{ 3, 0, 2, 1, 0 },
        .{ 1, 0, 0, 0, 0 },
        .{ 0, 1, 0, 0, 0 },
        .{ 0, 0, 0, 1, 1 },
        .{ 0, 0, 0, 0, 1 },
    };
    const row = power(step, 1_000_000_000_000 - 2)[0];
    const start = [_]u64{ 5, 2, 1, 3, 1 };
    var term: u64 = 0;
    for (row, start) |a, b| term += a * b;
    print(term % modulus);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
